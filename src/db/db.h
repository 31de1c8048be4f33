/* SPDX-License-Identifier: Apache-2.0
 *
 * What all who keep something in an SQLite file need beside SQLite itself. Codes are SQLite's.
 */
#ifndef DB_DB_H
#define DB_DB_H

#include <sqlite3.h>

#include "base/base.h"

/* For AUTO. */
void db_closep(sqlite3 **db);
void db_finalizep(sqlite3_stmt **st);

/* The first integer of a statement's first row; without a row *ret stays. */
int db_int(sqlite3 *db, const char *sql, int *ret) MUST_CHECK;
/* SQLITE_CORRUPT: the file is damaged. */
int db_check(sqlite3 *db) MUST_CHECK;
/* SQLite found the file damaged, or no database. */
bool db_is_damaged(int rc);
/* Moves a file that is not open, and what SQLite keeps beside it, to a name that is free: "<path>.corrupt-N".
 * What cannot be moved is removed, or it would be read into the next one. Returns the name; never NULL. */
char *db_move_aside(const char *path) MUST_CHECK;

#endif
