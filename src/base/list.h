/* SPDX-License-Identifier: Apache-2.0
 *
 * Intrusive doubly linked list: a ring whose head is a node of its own. Being on a list is a state;
 * a node that is on none points to itself (list_init) and may be removed again without harm.
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include "base/base.h"

struct list {
	struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}
static inline void list_insert_(struct list *n, struct list *prev, struct list *next)
{
	n->prev = prev;
	n->next = next;
	prev->next = n;
	next->prev = n;
}
static inline void list_append(struct list *head, struct list *n)
{
	list_insert_(n, head->prev, head);
}
static inline void list_prepend(struct list *head, struct list *n)
{
	list_insert_(n, head, head->next);
}
static inline void list_remove(struct list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}
static inline struct list *list_first(const struct list *head)
{
	return list_empty(head) ? NULL : head->next;
}
static inline struct list *list_pop(struct list *head)
{
	struct list *n = list_first(head);
	if (n)
		list_remove(n);
	return n;
}
/* Moves all of from to the end of to; from is empty afterwards. */
static inline void list_splice(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define LIST_ENTRY(node, type, member) CONTAINER_OF(node, type, member)
/* The body may remove `it`, and nothing else. */
#define LIST_FOREACH(it, head, type, member)                                                                 \
	for (type *it = LIST_ENTRY((head)->next, type, member),                                              \
		  *it##_next = LIST_ENTRY(it->member.next, type, member);                                    \
		&it->member != (head);                                                                       \
		it = it##_next, it##_next = LIST_ENTRY(it->member.next, type, member))

#endif
