// SPDX-License-Identifier: Apache-2.0
// Requests that two servers could read in two ways, byte by byte. Each row has its exact answer; what is
// refused closes the connection, and nothing that was hidden in it is ever seen as a request.
// docs/reference/http.md has the same rows.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import test from 'node:test';
import { fakePool, root, until, withCorral, withDeadline } from './harness.mjs';

const body = '{"model":"fake","messages":[]}';
const hidden = 'GET /v1/models/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n';
const post = (headers, rest = body, line = 'POST /v1/chat/completions HTTP/1.1') =>
  `${line}\r\nHost: localhost\r\nContent-Type: application/json\r\n${headers}\r\n${rest}`;
const get = (headers, line = 'GET /v1/models HTTP/1.1') => `${line}\r\n${headers}\r\n`;
const host = 'Host: localhost\r\n';
const length = `Content-Length: ${body.length}\r\n`;
const chunked = 'Transfer-Encoding: chunked\r\n';
const inChunks = (extension = '', trailers = '') =>
  `${body.length.toString(16)}${extension}\r\n${body}\r\n0\r\n${trailers}\r\n`;

// [what, bytes, status]; status 0: the connection is closed without an answer.
const rows = [
  ['a plain request', post(length), 200],
  [
    'Content-Length and Transfer-Encoding',
    post(`Content-Length: 5\r\n${chunked}`, `0\r\n\r\n${hidden}`),
    400,
  ],
  [
    'Transfer-Encoding and Content-Length',
    post(`${chunked}Content-Length: 5\r\n`, `0\r\n\r\n${hidden}`),
    400,
  ],
  ['two Content-Lengths that differ', post(`Content-Length: 0\r\n${length}`, body), 400],
  ['two Content-Lengths that are equal', post(length + length), 400],
  ['Content-Length: +30', post(`Content-Length: +${body.length}\r\n`), 400],
  ['Content-Length: -1', post('Content-Length: -1\r\n'), 400],
  ['Content-Length: 30,30', post(`Content-Length: ${body.length},${body.length}\r\n`), 400],
  ['Content-Length: 0x1e', post('Content-Length: 0x1e\r\n'), 400],
  ['Content-Length without a number', post('Content-Length: \r\n'), 400],
  ['Content-Length beyond 64 bits', post('Content-Length: 99999999999999999999\r\n'), 400],
  ['Content-Length over body.max', post('Content-Length: 99999999999\r\n', ''), 413],
  ['Transfer-Encoding: xchunked', post('Transfer-Encoding: xchunked\r\n', hidden), 400],
  ['Transfer-Encoding: gzip, chunked', post('Transfer-Encoding: gzip, chunked\r\n', inChunks()), 400],
  ['Transfer-Encoding: chunked, chunked', post('Transfer-Encoding: chunked, chunked\r\n', inChunks()), 400],
  ['Transfer-Encoding: chunked twice', post(chunked + chunked, inChunks()), 400],
  ['Transfer-Encoding : chunked', post('Transfer-Encoding : chunked\r\n', inChunks()), 400],
  ['Transfer-Encoding in HTTP/1.0', post(chunked, inChunks(), 'POST /v1/chat/completions HTTP/1.0'), 400],
  ['a header folded over two lines', post(`X-A: b\r\n c\r\n${length}`), 400],
  [
    'line ends of LF alone',
    get('Host: localhost\n', 'GET /v1/models HTTP/1.1').replaceAll('\r\n', '\n'),
    400,
  ],
  ['a CR within a header', get(`${host}X-A: b\rc\r\n`), 400],
  ['a NUL in a header', get(`${host}X-A: b\0c\r\n`), 400],
  ['a blank before the colon', get('Host : localhost\r\n'), 400],
  ['no Host', get('X-A: b\r\n'), 400],
  ['two Hosts', get(host + host), 400],
  ['a Host with a path', get('Host: localhost/x\r\n'), 400],
  ['a Host with a user', get('Host: a@localhost\r\n'), 400],
  ['an absolute address of this Host', get(host, 'GET http://localhost/v1/models HTTP/1.1'), 200],
  ['an absolute address of another host', get(host, 'GET http://other/v1/models HTTP/1.1'), 400],
  ['GET *', get(host, 'GET * HTTP/1.1'), 400],
  ['CONNECT', get(host, 'CONNECT localhost:80 HTTP/1.1'), 400],
  ['a blank in the address', get(host, 'GET /v1/mod els HTTP/1.1'), 400],
  ['a control character in the address', get(host, 'GET /v1/mod\x01els HTTP/1.1'), 400],
  ['HTTP/0.9', 'GET /v1/models\r\n\r\n', 505],
  ['HTTP/1.2', get(host, 'GET /v1/models HTTP/1.2'), 400],
  ["HTTP/2's preface", 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 505],
  ['HTTP/3.0', get(host, 'GET /v1/models HTTP/3.0'), 505],
  ['a method in small letters', get(host, 'get /v1/models HTTP/1.1'), 400],
  ['TRACE', get(host, 'TRACE /v1/models HTTP/1.1'), 405],
  ['Upgrade: h2c', get(`${host}Connection: Upgrade\r\nUpgrade: h2c\r\n`), 200],
  ['Expect: other', post(`Expect: other\r\n${length}`), 417],
  ['a GET with a body', get(`${host}Content-Length: 3\r\n`) + 'abc', 200],
  ['a head of more than 64 KiB', get(`${host}X-A: ${'a'.repeat(70000)}\r\n`), 431],
  ['129 headers', get(host + 'X-A: b\r\n'.repeat(128)), 431],
  ['an address of more than 8 KiB', get(host, `GET /${'a'.repeat(9000)} HTTP/1.1`), 414],
  ['chunks', post(chunked, inChunks()), 200],
  ['chunk extensions', post(chunked, inChunks(';a=b;c="d"')), 200],
  ['trailers, dropped', post(chunked, inChunks('', 'X-A: b\r\n')), 200],
  ['a Content-Length in the trailers', post(chunked, inChunks('', 'Content-Length: 5\r\n')), 400],
  ['a chunk size with a sign', post(chunked, `+5\r\nhello\r\n0\r\n\r\n`), 400],
  ['a chunk size beyond 64 bits', post(chunked, `fffffffffffffffff\r\n${hidden}`), 400],
  ['a chunk without its CRLF', post(chunked, `5\r\nhelloX\r\n0\r\n\r\n${hidden}`), 400],
  ['a chunk size that ends in LF', post(chunked, `5\nhello\n0\n\n${hidden}`), 400],
  ['chunk extensions without an end', post(chunked, `1;${'a'.repeat(300000)}`), 400],
  ['trailers without an end', post(chunked, `0\r\n${`X-A: ${'b'.repeat(1000)}\r\n`.repeat(300)}`), 400],
];

/** Sends bytes; everything that comes back until the connection ends, or the first answer is whole. */
function exchange(port, bytes) {
  return withDeadline(
    new Promise((resolve) => {
      const socket = net.connect(port, '127.0.0.1');
      let text = '';
      const done = (closed) => {
        socket.destroy();
        resolve({ text, closed, status: Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? 0) });
      };
      socket.on('data', (d) => {
        text += d.toString('latin1');
        const end = text.indexOf('\r\n\r\n');
        const n = /content-length: (\d+)/i.exec(text.slice(0, end));
        const whole = end >= 0 && n && text.length >= end + 4 + Number(n[1]);
        if (whole && !/connection: close/i.test(text.slice(0, end))) done(false);
      });
      socket.on('end', () => done(true));
      socket.on('error', () => done(true));
      socket.write(Buffer.from(bytes, 'latin1'));
    }),
    'an answer or the end',
  );
}

test(
  'each row has its exact answer, and what is refused is closed',
  withCorral(
    { pools: [fakePool('fake')] },
    async (corral) => {
      const wrong = [];
      for (const [what, bytes, status] of rows) {
        const got = await exchange(new URL(corral.url).port, bytes);
        const refused = [400, 413, 414, 417, 431, 505].includes(status);
        if (got.status !== status) wrong.push(`${what}: ${got.status}, not ${status}`);
        if (refused && !got.closed) wrong.push(`${what}: not closed`);
        if (got.text.match(/HTTP\/1\.1 \d/g)?.length !== 1) wrong.push(`${what}: not one answer`);
        if (got.text.includes('hidden')) wrong.push(`${what}: what was hidden is a request`);
      }
      assert.deepEqual(wrong, []);
      // A body that is refused is told as what it is, not as a client that left.
      const { requests } = (await corral.get('/v1/requests?limit=1000')).json;
      assert.deepEqual(requests.filter((r) => r.status === 499), []);
      assert.ok(requests.some((r) => r.status === 400 && /malformed/.test(r.outcome)));
    },
    { warm: ['fake'] },
  ),
);

test(
  'pipelined requests are answered in order',
  withCorral({ pools: [fakePool('fake')] }, async (corral) => {
    const socket = net.connect(new URL(corral.url).port, '127.0.0.1');
    let text = '';
    socket.on('data', (d) => (text += d));
    socket.write(get(host, 'GET /healthz HTTP/1.1') + post(length) + get(host, 'GET /nothing HTTP/1.1'));
    await until('three answers', () => text.split(/HTTP\/1\.1 \d+/).length === 4);
    assert.deepEqual(text.match(/HTTP\/1\.1 \d+/g), ['HTTP/1.1 200', 'HTTP/1.1 200', 'HTTP/1.1 404']);
    socket.destroy();
  }, { warm: ['fake'] }),
);

test('docs/reference/http.md has these rows', () => {
  const text = fs.readFileSync(path.join(root, 'docs/reference/http.md'), 'utf8');
  const table = text.slice(text.indexOf('## Byte by byte'));
  const told = [...table.matchAll(/^\| (.+?) \| (\d+) \|$/gm)].map((m) => [m[1], Number(m[2])]);
  assert.deepEqual(told, rows.map(([what, , status]) => [what, status]));
});
