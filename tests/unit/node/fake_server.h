/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine that the node's tests start: the test program itself with arguments. It answers health,
 * props and anything else on a unix socket, one connection at a time.
 *
 *   SOCKET MODE      ok, loading (three 503 first), never (503 only), canary500, crash, oom, stubborn
 *   … --host SOCKET  as llama-server is started: a context smaller than promised
 */
#ifndef TEST_FAKE_SERVER_H
#define TEST_FAKE_SERVER_H

int fake_server_main(int argc, char **argv);

#endif
