/* SPDX-License-Identifier: Apache-2.0 */
#include "db/db.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

enum { ASIDE_MAX = 1000 };

void db_closep(sqlite3 **db)
{
	sqlite3_close(*db);
}

void db_finalizep(sqlite3_stmt **st)
{
	sqlite3_finalize(*st);
}

int db_int(sqlite3 *db, const char *sql, int *ret)
{
	AUTO(db_finalizep) sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
	if (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		*ret = sqlite3_column_int(st, 0);
		return SQLITE_OK;
	}
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

int db_check(sqlite3 *db)
{
	AUTO(db_finalizep) sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &st, NULL);
	if (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		const char *word = (const char *)sqlite3_column_text(st, 0);
		return word && strcmp(word, "ok") == 0 ? SQLITE_OK : SQLITE_CORRUPT;
	}
	return rc;
}

bool db_is_damaged(int rc)
{
	return (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB;
}

char *db_move_aside(const char *path)
{
	static const char *const sides[] = { "", "-wal", "-shm", "-journal" };
	char *to = NULL;
	for (int i = 1; i <= ASIDE_MAX; i++) {
		free(to);
		to = mem_fmt("%s.corrupt-%d", path, i);
		if (!file_exists(to))
			break;
	}
	for (size_t i = 0; i < ARRAY_LEN(sides); i++) {
		AUTO(mem_freep) char *from = mem_fmt("%s%s", path, sides[i]);
		AUTO(mem_freep) char *dest = mem_fmt("%s%s", to, sides[i]);
		if (rename(from, dest))
			unlink(from);
	}
	return to;
}
