# SPDX-License-Identifier: Apache-2.0
"""The rows of tests/bench/run: each measures one promise about the data path and returns its figures."""

import hashlib
import json
import os
import re
import resource
import socket
import subprocess
import threading
import time

import contest
from contest import LOAD_CPU, PROXY_CPU, cpu_ns, instance, memory_kib, tree, until
from report import figure, median, quartile
from still import undisturbed

PEERS = ('corral', 'nginx', 'haproxy')
BODY = ('{"model":"chat","messages":[{"role":"system","content":"You are a helpful assistant that answers '
        'briefly."},{"role":"user","content":"Tell me about the sea and the sky and everything that lies '
        'between them, please, in one short sentence, thank you."}],"temperature":0.7,"max_tokens":64,'
        '"stream":false}')
LUA = '''wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["User-Agent"] = "OpenAI/JS 6.0.0"
wrk.headers["Accept"] = "application/json"
wrk.headers["Authorization"] = "Bearer sk-none"
wrk.body = [[%s]]
'''
LUA_CLOSE = LUA + 'wrk.headers["Connection"] = "close"\n'


def to_us(text):
    m = re.match(r'([\d.]+)(us|ms|s)', text)
    return float(m[1]) * {'us': 1, 'ms': 1000, 's': 1e6}[m[2]]


def parse_wrk(text):
    """{requests, rps, p50_us, p99_us}; an answer that is not 2xx or a broken connection is an error."""
    if re.search(r'Non-2xx|Socket errors', text):
        raise RuntimeError('the load generator saw errors:\n' + text)
    return {'requests': int(re.search(r'(\d+) requests in', text)[1]),
            'rps': float(re.search(r'Requests/sec:\s+([\d.]+)', text)[1]),
            'p50_us': to_us(re.search(r'^\s+50%\s+(\S+)', text, re.M)[1]),
            'p99_us': to_us(re.search(r'^\s+99%\s+(\S+)', text, re.M)[1])}


def wrk(c, port, conns, seconds, cpu=LOAD_CPU, close=False):
    script = f'{c.dir}/{"close" if close else "keep"}.lua'
    if not os.path.exists(script):
        with open(script, 'w', encoding='ascii') as f:
            f.write((LUA_CLOSE if close else LUA) % BODY)
    out = subprocess.run([contest.program('wrk'), '-t1', f'-c{conns}', f'-d{seconds}s', '-s', script,
                          '--latency', f'http://127.0.0.1:{port}/v1/chat/completions'],
                         stdout=subprocess.PIPE, check=True, preexec_fn=contest.on_cpu(cpu))
    return parse_wrk(out.stdout.decode())


def wrk_seconds(a):
    return max(1, round(a.seconds))


def loaded(c, name, conns, seconds, **more):
    """One round: wrk's figures and cpu_us, time on a CPU per request."""
    pids = c.pids(name)
    before = cpu_ns(pids)
    got = wrk(c, c.ports[name], conns, max(1, round(seconds)), **more)
    got['cpu_us'] = (cpu_ns(pids) - before) / 1000 / got['requests']
    return got


# Medians of delays move more from round to round than costs do: so many times the rounds for them.
DELAY_ROUNDS = 3


def interleaved(c, a, names, conns, times=1, seconds=None, **more):
    """{name: {figure: median}} over times × a.rounds rounds of a.seconds; one short round before warms up."""
    rounds = {n: [] for n in names}
    for n in names:
        wrk(c, c.ports[n], conns, 1, **more)
    for _ in range(a.rounds * times):
        for n in names:
            rounds[n].append(undisturbed(
                lambda n=n: loaded(c, n, conns, seconds or a.seconds, **more)))
    return {n: {k: median([r[k] for r in rounds[n]]) for k in rounds[n][0]} for n in names}


# wrk opens its connections all at once. Where 50,000 requests a second go over 256 connections, those first
# ones are 0.5 % of a round of 1 s: half of what p99 looks at.
TAIL_SECONDS = 4


def tail(c, a, names, conns):
    """interleaved(), for figures at the far end: rounds four times as long, three times as many."""
    return interleaved(c, a, names, conns, times=DELAY_ROUNDS, seconds=TAIL_SECONDS * a.seconds)


def start_all(c, upstream):
    for name in PEERS:
        c.start(name, upstream)


def one(got, key):
    return {n: v[key] for n, v in got.items()}


def row_cpu(c, a):
    figures = []
    for kind in ('tcp', 'unix'):
        process, upstream = c.upstream(path=f'{c.dir}/up.sock' if kind == 'unix' else None)
        start_all(c, upstream)
        got = interleaved(c, a, PEERS, 64)
        figures.append(figure(f'CPU per request, 64 connections, {kind} upstream', 'µs', one(got, 'cpu_us'),
                              1.1, 0.9))
        c.stop_contestants()
        c.processes.stop(process)
    return figures


def row_rps(c, a):
    _, upstream = c.upstream()
    start_all(c, upstream)
    figures = []
    for conns in (1, 32, 256):
        if conns == 256:
            got = tail(c, a, ('corral', 'nginx'), conns)
            got |= interleaved(c, a, ('haproxy',), conns)
        else:
            got = interleaved(c, a, PEERS, conns, times=DELAY_ROUNDS if conns == 32 else 1)
        values = one(got, 'rps')
        if conns == 1:
            figures.append(figure('requests a second, 1 connection', '1/s', values, higher=True))
            continue
        nginx = {n: values[n] for n in ('corral', 'nginx')}
        r = figure(f'requests a second, {conns} connections', '1/s', nginx, 0.9, 1.0, higher=True)
        r['values'] = values
        figures.append(r)
        if conns == 256:
            p99 = one(got, 'p99_us')
            r = figure('p99 at 256 connections', 'µs', {n: p99[n] for n in ('corral', 'nginx')}, 1.0)
            r['values'] = p99
            figures.append(r)
    return figures


def row_connect(c, a):
    """A connection for every request."""
    _, upstream = c.upstream()
    start_all(c, upstream)
    got = interleaved(c, a, PEERS, 64, close=True)
    return [figure('CPU per request, a connection each, 64 at a time', 'µs', one(got, 'cpu_us')),
            figure('requests a second, a connection each', '1/s', one(got, 'rps'), higher=True)]


def row_added(c, a):
    """Everything on one CPU, one connection: what the proxy adds to the median."""
    process, upstream = c.upstream()
    os.sched_setaffinity(process.pid, contest.cpus(PROXY_CPU))
    start_all(c, upstream)
    c.ports['direct'] = int(upstream)
    names = ('direct', *PEERS)
    rounds = {n: [] for n in names}
    for _ in range(a.rounds * DELAY_ROUNDS + 1):
        for n in names:
            rounds[n].append(undisturbed(
                lambda n=n: wrk(c, c.ports[n], 1, wrk_seconds(a), cpu=PROXY_CPU)['p50_us']))
    p50 = {n: median(v[1:]) for n, v in rounds.items()}
    added = {n: p50[n] - p50['direct'] for n in PEERS}
    judged = {n: added[n] for n in ('corral', 'haproxy')}
    r = figure('added p50, one connection, all on one CPU', 'µs', judged, 1.0)
    r['values'] = {**added, 'direct': p50['direct']}
    return [r]


def sse_client(c, port, streams, seconds):
    return c.processes.start([f'{c.build}/tests/bench/bench-sse-client', '--streams', str(streams),
                              '--ms', str(int(seconds * 1000)), str(port)], LOAD_CPU, stdout=subprocess.PIPE)


def sse_round(c, name, a):
    client = sse_client(c, c.ports[name], 64, a.seconds)
    if not client.stdout.readline().startswith(b'open'):
        raise RuntimeError(f'{name}: the streams did not open')
    pids = c.pids(name) if name != 'direct' else []
    before = cpu_ns(pids)
    client.stdin.write(b'g')
    client.stdin.flush()
    got = json.loads(client.stdout.readline())
    got['cpu_us'] = (cpu_ns(pids) - before) / 1000 / max(got['events'], 1)
    c.processes.stop(client)
    return got


def row_sse(c, a):
    """64 streams, an event a millisecond each. HAProxy with http-no-delay, nginx without buffering."""
    figures = []
    for kind in ('tcp', 'unix'):
        path = f'{c.dir}/sse.sock' if kind == 'unix' else None
        process, upstream = c.upstream('--interval-us', '1000', path=path)
        names = PEERS[:1] if a.smoke else PEERS
        for name in names:
            c.start(name, upstream)
        rounds = {n: [] for n in names}
        for _ in range(a.rounds * DELAY_ROUNDS + 1 if not a.smoke else 1):
            for n in names:
                rounds[n].append(undisturbed(lambda n=n: sse_round(c, n, a)))
        got = {n: {k: (quartile if k == 'p99_us' else median)([r[k] for r in (v[1:] or v)]) for k in v[0]}
               for n, v in rounds.items()}
        figures.append(figure(f'CPU per event, 64 streams, {kind} upstream', 'µs', one(got, 'cpu_us'), 1.0,
                              0.7))
        p50, p99 = one(got, 'p50_us'), one(got, 'p99_us')
        r = figure(f'delay per event, p50, {kind}', 'µs', p50)
        if len(p50) > 1: # CPU and its delay are held against the same peer: the one whose CPU is less
            cpu = one(got, 'cpu_us')
            cheaper = min(PEERS[1:], key=cpu.get)
            r.update(gate=round(1 + 20 / p50[cheaper], 2), gate_met=p50['corral'] <= p50[cheaper] + 20,
                     ratio=p50['corral'] / p50[cheaper], note=f'against {cheaper}, whose CPU is less')
        figures += [r, figure(f'delay per event, p99, {kind}', 'µs', p99, 1.0)]
        c.stop_contestants()
        c.processes.stop(process)
    return figures


def row_idle(c, a):
    process, upstream = c.upstream('--hold', path=f'{c.dir}/idle.sock')
    # A stream is two descriptors of the proxy.
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = min(a.streams, (limit - 200) // 2)
    replicas = most // 1000 + 1
    p = c.start('corral', [upstream] * replicas)
    pids = tree(p.pid)
    figures = []
    socket_path = f'{c.dir}/corral-{c.ports["corral"]}/run/corral.sock'
    for streams in (max(most // 10, 10), most):
        warm = open_streams(c, socket_path, 10)
        before = memory_kib(pids)
        client = open_streams(c, socket_path, streams)
        kib = (memory_kib(pids) - before) / streams
        figures.append(figure(f'memory of an idle stream, {streams} open', 'KiB', {'corral': kib},
                              8 if streams >= 1000 else None, against='value'))
        for one_client in (client, warm):
            c.processes.stop(one_client)
    c.processes.stop(process)
    return figures


def open_streams(c, address, n):
    client = c.processes.start([f'{c.build}/tests/bench/bench-sse-client', '--streams', str(n), address],
                               LOAD_CPU, stdout=subprocess.PIPE)
    if not client.stdout.readline().startswith(b'open'):
        raise RuntimeError('the idle streams did not open')
    return client


def row_pss(c, a):
    """An idle home profile: every process of the instance, no engine, key or certificate in use. After load:
    what stays when 256 connections have come and gone."""
    _, upstream = c.upstream()
    p = c.start('corral', upstream)
    pids = instance(p.pid, f'{c.dir}/corral-{c.ports["corral"]}')
    figures = [figure('memory of an idle instance (PSS)', 'MiB', {'corral': memory_kib(pids) / 1024}, 12,
                      against='value')]
    if a.smoke:
        return figures
    for name in PEERS[1:]:
        c.start(name, upstream)
    for name in PEERS:
        wrk(c, c.ports[name], 256, wrk_seconds(a))
    for what in ('Pss', 'Rss'):
        figures.append(figure(f'memory after load from 256 connections ({what.upper()})', 'MiB',
                              {n: memory_kib(c.pids(n), what) / 1024 for n in PEERS}))
    return figures


class BodyServer(threading.Thread):
    """Takes one large body a connection and answers with its digest, or with a large body."""

    SIZE = 64 * 1000 * 1000

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.create_server(('127.0.0.1', 0))
        self.port = self.socket.getsockname()[1]
        self.closed = []  # when the peer closed a connection that was held
        self.held = threading.Event()

    def run(self):
        while True:
            try:
                conn, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        f = conn.makefile('rb')
        while True:
            head = f.readline()
            if not head:
                return
            length, line = 0, head
            while line not in (b'\r\n', b''):
                if line.lower().startswith(b'content-length:'):
                    length = int(line.split(b':')[1])
                line = f.readline()
            digest = hashlib.sha256()
            first = b''
            while length:
                piece = f.read(min(length, 65536))
                first = first or piece[:4096]
                digest.update(piece)
                length -= len(piece)
            self.answer(conn, head, first, digest.hexdigest())

    def answer(self, conn, head, first, digest):
        if b'"hold":true' in first:
            conn.sendall(b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n'
                         b'Content-Length: 1000000\r\n\r\ndata: {"choices":[{"delta":{"content":"x"}}]}\n\n')
            self.held.set()
            conn.recv(1)
            self.closed.append(time.monotonic())
        elif b'"large":true' in first:
            conn.sendall(b'HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n'
                         b'Content-Length: %d\r\n\r\n' % self.SIZE)
            for _ in range(self.SIZE // 100000):
                conn.sendall(self.block())
        else:
            body = json.dumps({'digest': digest}).encode()
            conn.sendall(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s'
                         % (len(body), body))

    @staticmethod
    def block():
        return bytes(range(250)) * 400


def post(port, pieces, length):
    s = socket.create_connection(('127.0.0.1', port))
    s.sendall(b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'
              b'Connection: close\r\nContent-Length: %d\r\n\r\n' % length)
    for piece in pieces:
        s.sendall(piece)
    f = s.makefile('rb')
    status = int(f.readline().split()[1])
    while f.readline() not in (b'\r\n', b''):
        pass
    if status != 200:
        raise RuntimeError(f'a large body: status {status}: {f.read(500)}')
    return s, f


def send_large(port):
    """A body whose model is the last key; the digest the upstream saw must be ours."""
    filler = b'{"input":"' + b'x' * (BodyServer.SIZE - 40) + b'","model":"chat"}'
    _, f = post(port, [filler], len(filler))
    if json.loads(f.read())['digest'] != hashlib.sha256(filler).hexdigest():
        raise RuntimeError('a 64 MB request reached the upstream changed')


def receive_large(port):
    body = b'{"model":"chat","large":true}'
    _, f = post(port, [body], len(body))
    got = hashlib.sha256(f.read()).hexdigest()
    want = hashlib.sha256()
    for _ in range(BodyServer.SIZE // 100000):
        want.update(BodyServer.block())
    if got != want.hexdigest():
        raise RuntimeError('a 64 MB answer reached the client changed')


def row_body(c, a):
    server = BodyServer()
    server.start()
    p = c.start('corral', str(server.port))
    small = b'{"model":"chat"}'
    for _ in range(20):
        post(c.ports['corral'], [small], len(small))[1].read()
    pids = tree(p.pid)
    figures = []
    for what, transfer in (('request', send_large), ('response', receive_large)):
        before = memory_kib(pids)
        transfer(c.ports['corral'])
        figures.append(figure(f'memory after a 64 MB {what}, digest equal', 'MiB',
                              {'corral': (memory_kib(pids) - before) / 1024}, 1, against='value'))
    server.socket.close()
    return figures


def row_gone(c, a):
    """From the client's close to the end of the engine's connection."""
    server = BodyServer()
    server.start()
    c.start('corral', str(server.port))
    body = b'{"model":"chat","stream":true,"hold":true}'
    times = []
    for i in range(20):
        server.held.clear()
        s, f = post(c.ports['corral'], [body], len(body))
        f.readline()
        server.held.wait(10)
        f.close()
        at = time.monotonic()
        s.close()
        until(lambda n=i: len(server.closed) > n, "the engine's connection is closed")
        times.append((server.closed[i] - at) * 1000)
    server.socket.close()
    return [figure('client gone, engine connection closed (median)', 'ms', {'corral': median(times)}, 5,
                   against='value')]


def grown(c, a, sizes, names=('corral',), times=1):
    """{name: (factor, "1 × → 10 ×")} of the cost of a request. sizes: [(label, connections)], the second ten
    times the first; a label that is empty is the contestant itself. Rounds of all are interleaved."""
    rounds = {(n, i): [] for n in names for i in (0, 1)}
    for number in range(a.rounds * times + 1):
        for n in names:
            for i, (label, conns) in enumerate(sizes):
                name = label or n
                got = undisturbed(lambda name=name, conns=conns: loaded(c, name, conns, a.seconds))
                cost = got['cpu_us']
                if number:
                    rounds[n, i].append(cost)
    cost = {n: [median(rounds[n, i]) for i in (0, 1)] for n in names}
    return {n: (large / small, f'{small:.1f} → {large:.1f} µs') for n, (small, large) in cost.items()}


def row_growth(c, a):
    """The cost of a request at ten times the pools, replicas and connections, rounds of both interleaved."""
    _, ports = c.upstream(ports=10)
    c.start('corral', ports[:1])
    c.start('corral', ports[:1], label='pools1', pools=10)
    c.start('corral', ports[:1], label='pools10', pools=100)
    c.start('corral', ports, label='replicas10')
    figures = []
    for what, sizes in (('pools', (('pools1', 64), ('pools10', 64))),
                        ('replicas', (('corral', 64), ('replicas10', 64)))):
        factor, note = grown(c, a, sizes)['corral']
        figures.append(figure(f'CPU per request at 10 × the {what}', '× of 1 ×', {'corral': factor}, 1.3,
                              against='value', note=note))
    for label in ('pools1', 'pools10', 'replicas10'):
        c.stop(label)
    for name in PEERS[1:]:
        c.start(name, ports[0])
    got = grown(c, a, (('', 64), ('', 640)), PEERS, DELAY_ROUNDS)
    # 640 connections and what the kernel keeps for them leave the CPU's cache: that is the machine's part,
    # and on a shared one it moves (1.2 to 1.7 for one and the same proxy). It shows in the peers.
    machine = sum(got[n][0] for n in PEERS[1:]) / len(PEERS[1:])
    r = figure('CPU per request at 10 × the connections', '× of 1 ×', {'corral': got['corral'][0]},
               max(1.3, round(machine, 2)), against='value', note=got['corral'][1])
    r['values'] = {n: factor for n, (factor, _) in got.items()}
    return [*figures, r]


ALL = {'cpu': row_cpu, 'rps': row_rps, 'connect': row_connect, 'added': row_added, 'sse': row_sse,
       'idle': row_idle, 'pss': row_pss, 'body': row_body, 'gone': row_gone, 'growth': row_growth}
