# SPDX-License-Identifier: Apache-2.0
"""The contestants of tests/bench/run: Corral, nginx and HAProxy as proxies before the same upstream, each
with one worker on CPU 0, its request log going to a file; load and upstream on CPU 1. Everything lives in one
temporary folder, and everything that was started is ended."""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

PROXY_CPU, LOAD_CPU = 0, 1
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None)


class Missing(Exception):
    """A program that is not installed."""


def program(name):
    path = shutil.which(name, path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin')
    if not path:
        raise Missing(f'{name} is not installed (tests/bench/run --setup installs the peers)')
    return path


def cpus(given):
    """The CPUs as numbers that exist here; one CPU: everything shares it."""
    have = sorted(os.sched_getaffinity(0))
    return {have[min(given, len(have) - 1)]}


def on_cpu(cpu):
    """What a child does before it becomes its program: it keeps to that CPU, and ends when we end."""
    affinity = cpus(cpu)

    def prepare():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        os.sched_setaffinity(0, affinity)
    return prepare


class Processes:
    def __init__(self):
        self.all = []

    def start(self, argv, cpu, out=None, **more):
        log = open(out, 'wb') if out else subprocess.DEVNULL
        p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=more.pop('stdout', log),
                             stderr=more.pop('stderr', subprocess.STDOUT if out else subprocess.DEVNULL),
                             preexec_fn=on_cpu(cpu), **more)
        self.all.append(p)
        return p

    def stop(self, p, how=signal.SIGTERM):
        if p in self.all:
            self.all.remove(p)
        if p.poll() is None:
            p.send_signal(how)
            try:
                p.wait(15)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()

    def stop_all(self):
        for p in list(reversed(self.all)):
            self.stop(p)


def until(what, why, seconds=20):
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise RuntimeError(f'{why}: not within {seconds} s')
        time.sleep(0.01)


def answers(port, path='/'):
    try:
        urllib.request.urlopen(f'http://127.0.0.1:{port}{path}', timeout=1).read()
        return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def log_end(folder):
    logs = [f'{folder}/{n}' for n in os.listdir(folder) if n.endswith(('.log', '.err'))]
    return ' '.join(open(name, encoding='utf-8', errors='replace').read()[-600:] for name in logs)


def tree(pid):
    """pid and its descendants."""
    pids = [pid]
    for task in os.listdir(f'/proc/{pid}/task'):
        try:
            with open(f'/proc/{pid}/task/{task}/children', encoding='ascii') as f:
                for child in f.read().split():
                    pids += tree(int(child))
        except OSError:
            pass
    return pids


def instance(pid, folder):
    """pid, its descendants, and every other process that was told a file of the instance's folder."""
    pids = tree(pid)
    for other in map(int, filter(str.isdigit, os.listdir('/proc'))):
        try:
            with open(f'/proc/{other}/cmdline', 'rb') as f:
                if other not in pids and other != os.getpid() and f'{folder}/'.encode() in f.read():
                    pids.append(other)
        except OSError:
            pass
    return pids


def cpu_ns(pids):
    """Time on a CPU of all their threads. (A thread that ended takes its time with it: none does here.)"""
    total = 0
    for pid in pids:
        for task in os.listdir(f'/proc/{pid}/task'):
            with open(f'/proc/{pid}/task/{task}/schedstat', encoding='ascii') as f:
                total += int(f.read().split()[0])
    return total


def memory_kib(pids, what='Pss'):
    total = 0
    for pid in pids:
        with open(f'/proc/{pid}/smaps_rollup', encoding='ascii') as f:
            total += int(re.search(rf'^{what}:\s+(\d+)', f.read(), re.M)[1])
    return total


NGINX = '''
worker_processes 1; daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.err;
worker_rlimit_nofile {files};
events {{ worker_connections {conns}; }}
http {{
  access_log {dir}/nginx.log; keepalive_requests 1000000000; client_max_body_size 0;
  client_body_temp_path {dir}/n1; proxy_temp_path {dir}/n2; fastcgi_temp_path {dir}/n3;
  uwsgi_temp_path {dir}/n4; scgi_temp_path {dir}/n5;
  upstream up {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s; }} }}
}}
'''

HAPROXY = '''
global
  nbthread 1
  maxconn {conns}
  log stdout format raw local0
defaults
  mode http
  option http-no-delay
  option httplog
  log global
  timeout client 600s
  timeout server 600s
  timeout connect 5s
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  http-reuse always
  server s {upstream}
'''

CORRAL = '''
listen: 127.0.0.1:{port}
workers: {workers}
state_dir: {dir}/state
runtime_dir: {dir}/run
log: {{format: json}}
pools:
'''
POOL = '''  - {{id: {id}, slots: {slots}, queue: {{capacity: 100000}},
     engine: {{kind: openai, mode: external, urls: [{urls}]}}}}
'''


class Contest:
    """Started contestants: port and pids by name. upstream: a port, or the path of a unix socket."""

    def __init__(self, processes, folder, build):
        self.processes, self.dir, self.build = processes, folder, build
        self.running = {}
        self.ports = {}

    @staticmethod
    def port():
        """One that was free just now."""
        with socket.create_server(('127.0.0.1', 0)) as s:
            return s.getsockname()[1]

    def upstream(self, *flags, path=None, ports=1):
        """(process, address or list of addresses)"""
        where = [path] if path else [str(self.port()) for _ in range(ports)]
        p = self.processes.start([f'{self.build}/tests/bench/bench-upstream', *flags, *where], LOAD_CPU,
                                 stdout=subprocess.PIPE)
        if p.stdout.readline() != b'ready\n':
            raise RuntimeError('the upstream did not start')
        return p, where[0] if ports == 1 else where

    def start(self, name, upstream, label=None, **options):
        """label: what it is called from here on, where one contestant runs more than once."""
        port = self.port()
        folder = f'{self.dir}/{name}-{port}'
        os.makedirs(folder)
        process = getattr(self, 'start_' + name)(folder, port, upstream, **options)
        try:
            until(lambda: answers(port, '/readyz' if name == 'corral' else '/'), f'{name} answers')
        except RuntimeError as e:
            raise RuntimeError(f'{e}; its log ends: {log_end(folder)}') from None
        label = label or name
        self.running[label], self.ports[label] = process, port
        return process

    def stop(self, name):
        self.processes.stop(self.running.pop(name))

    def stop_contestants(self):
        for name in list(self.running):
            self.stop(name)

    def pids(self, name):
        return tree(self.running[name].pid)

    def start_nginx(self, folder, port, upstream, conns=8000):
        where = f'unix:{upstream}' if upstream.startswith('/') else f'127.0.0.1:{upstream}'
        with open(f'{folder}/nginx.conf', 'w', encoding='ascii') as f:
            f.write(NGINX.format(dir=folder, port=port, upstream=where, conns=conns, files=conns * 2))
        return self.processes.start([program('nginx'), '-c', f'{folder}/nginx.conf'], PROXY_CPU)

    def start_haproxy(self, folder, port, upstream, conns=8000):
        where = f'unix@{upstream}' if upstream.startswith('/') else f'127.0.0.1:{upstream}'
        with open(f'{folder}/haproxy.cfg', 'w', encoding='ascii') as f:
            f.write(HAPROXY.format(port=port, upstream=where, conns=conns))
        return self.processes.start([program('haproxy'), '-db', '-f', f'{folder}/haproxy.cfg'], PROXY_CPU,
                                    out=f'{folder}/haproxy.log')

    def start_corral(self, folder, port, upstream, pools=1, slots=1024, workers=1):
        where = upstream if isinstance(upstream, list) else [upstream]
        urls = ', '.join(f'"unix:{u}"' if u.startswith('/') else f'"http://127.0.0.1:{u}"' for u in where)
        with open(f'{folder}/corral.yaml', 'w', encoding='ascii') as f:
            f.write(CORRAL.format(dir=folder, port=port, workers=workers))
            for i in range(pools):
                f.write(POOL.format(id=f'pool{i}' if i else 'chat', slots=slots, urls=urls))
        return self.processes.start([f'{self.build}/corral', 'serve', '--config', f'{folder}/corral.yaml'],
                                    PROXY_CPU, out=f'{folder}/corral.log')
