/* SPDX-License-Identifier: Apache-2.0 */
#include "api/json_int.h"

#include <stdlib.h>

void json_add_str(doc *d, val *o, const char *key, const char *s)
{
	if (s)
		yyjson_mut_obj_add_strcpy(d, o, key, s);
	else
		yyjson_mut_obj_add_null(d, o, key);
}

void json_reply(struct api_call *c, doc *d)
{
	size_t n = 0;
	char *text = yyjson_mut_write(d, 0, &n);
	yyjson_mut_doc_free(d);
	if (text)
		api_reply_json(c, 200, view_of(text, n));
	else
		api_failf(c, CODE_INTERNAL, 0, "", "The answer cannot be written.");
	free(text);
}
