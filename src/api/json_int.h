/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON that is made of what the control plane knows.
 */
#ifndef API_JSON_INT_H
#define API_JSON_INT_H

#include <yyjson.h>

#include "api/api_int.h"

typedef yyjson_mut_doc doc;
typedef yyjson_mut_val val;

/* A copy of s, or null. */
void json_add_str(doc *d, val *o, const char *key, const char *s);
/* 200 with d, which it takes. */
void json_reply(struct api_call *c, doc *d);

#endif
