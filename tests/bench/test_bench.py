#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's own tests: test_bench.py BUILD-FOLDER. What is judged and how, what is read from the load
generator, and that one short round runs, prints its table and leaves no process."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import report  # noqa: E402
import rows  # noqa: E402
import still  # noqa: E402

BUILD = sys.argv.pop(1) if len(sys.argv) > 1 else 'build'
WRK = '''Running 2s test @ http://127.0.0.1:1/
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.05ms  300.00us  40.03ms   68.50%
    Req/Sec    40.10k     1.02k   41.00k    85.99%
  Latency Distribution
     50%    1.02ms
     75%    1.10ms
     90%    1.40ms
     99%    2.44s
  80221 requests in 2.00s, 41.2MB read
Requests/sec:  40100.50
'''


class Stillness(unittest.TestCase):
    def setUp(self):
        self.was = still.foreign, still.clock, dict(still.told)
        still.told.update(repeated=0, disturbed=0)

    def tearDown(self):
        still.foreign, still.clock, told = self.was
        still.told.update(told)

    def rounds(self, *shares):
        """undisturbed() while others take such a share of a CPU in each round, which lasts a second."""
        used, made = iter(shares), []
        total, now = [0.0], [0.0]
        still.foreign, still.clock = lambda: total[0], lambda: now[0]

        def measure():
            total[0] += next(used)
            now[0] += 1
            made.append(len(made))
            return made[-1]
        return still.undisturbed(measure), len(made)

    def test_a_still_round_counts_at_once(self):
        self.assertEqual(self.rounds(0), (0, 1))
        self.assertEqual(still.told, {'repeated': 0, 'disturbed': 0})

    def test_a_disturbed_round_is_made_again(self):
        self.assertEqual(self.rounds(0.5, 0.01), (1, 2))
        self.assertEqual(still.told, {'repeated': 1, 'disturbed': 0})

    def test_of_disturbed_rounds_the_least_counts_and_is_told(self):
        self.assertEqual(self.rounds(0.9, 0.8, 0.1, 0.7), (2, 4))
        self.assertEqual(still.told, {'repeated': 3, 'disturbed': 1})

    def test_what_others_take_is_seen(self):
        before = still.foreign()
        loop = subprocess.run(['sh', '-c', 'while :; do :; done >/dev/null 2>&1 & echo $!'], check=True,
                              capture_output=True)
        try:
            while still.foreign() - before < 0.1:
                pass
        finally:
            os.kill(int(loop.stdout), signal.SIGKILL)


class Judging(unittest.TestCase):
    def test_less_is_better_than_the_cheaper_peer(self):
        r = report.figure('cpu', 'µs', {'corral': 10.0, 'nginx': 10.0, 'haproxy': 12.0}, 1.1, 0.9)
        self.assertEqual((r['ratio'], r['gate_met'], r['goal_met']), (1.0, True, False))
        r = report.figure('cpu', 'µs', {'corral': 11.1, 'nginx': 12.0, 'haproxy': 10.0}, 1.1)
        self.assertFalse(r['gate_met'])

    def test_more_is_better(self):
        r = report.figure('rps', '1/s', {'corral': 90.0, 'nginx': 100.0}, 0.9, 1.0, higher=True)
        self.assertEqual((r['gate_met'], r['goal_met']), (True, False))

    def test_absolute(self):
        r = report.figure('idle', 'KiB', {'corral': 8.1}, 8, against='value')
        self.assertEqual((r['ratio'], r['gate_met']), (None, False))

    def test_without_peers_nothing_is_judged(self):
        r = report.figure('cpu', 'µs', {'corral': 10.0}, 1.1)
        self.assertIsNone(r['gate'])

    def test_table_says_what_was_missed(self):
        r = report.figure('cpu', 'µs', {'corral': 20.0, 'nginx': 10.0}, 1.1)
        self.assertIn('MISSED', report.table([r]))

    def test_docs_keep_what_is_around_them(self):
        with tempfile.NamedTemporaryFile('w+', encoding='utf-8') as f:
            f.write(f'before\n{report.BEGIN}\nold\n{report.END}\nafter\n')
            f.flush()
            rows_ = [report.figure('a', 'µs', {'corral': 1.0}, 2, against='value')]
            report.write_docs({'date': 'd', 'machine': 'm', 'rounds': 1, 'seconds': 1, 'rows': rows_,
                               'left_out': []}, f.name)
            with open(f.name, encoding='utf-8') as again:
                text = again.read()
        self.assertTrue(text.startswith('before\n') and text.endswith('after\n'))
        self.assertIn('| a (µs) | 1.00 |', text)
        self.assertNotIn('old', text)


class Reading(unittest.TestCase):
    def test_wrk(self):
        self.assertEqual(rows.parse_wrk(WRK), {'requests': 80221, 'rps': 40100.5, 'p50_us': 1020.0,
                                               'p99_us': 2440000.0})

    def test_errors_are_no_figures(self):
        with self.assertRaises(RuntimeError):
            rows.parse_wrk(WRK + '  Non-2xx or 3xx responses: 5\n')


def of_folder(folder):
    """The command lines of processes that name something in it."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as f:
                line = f.read()
            if folder.encode() in line and pid != str(os.getpid()):
                found.append(line)
        except OSError:
            pass
    return found


def until(what, seconds=60):
    end = time.monotonic() + seconds
    while not (got := what()) and time.monotonic() < end:
        time.sleep(0.01)
    return got


class Smoke(unittest.TestCase):
    def test_a_short_round_runs_and_leaves_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            out = f'{folder}/out.json'
            p = subprocess.run([f'{HERE}/run', '--build', BUILD, '--smoke', '--json', out], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100, check=False,
                               env={**os.environ, 'TMPDIR': folder})
            self.assertEqual(p.returncode, 0, p.stdout)
            self.assertEqual(of_folder(folder), [])
            with open(out, encoding='utf-8') as f:
                figures = {r['row']: r['values']['corral'] for r in json.load(f)['rows']}
        self.assertGreaterEqual(len(figures), 10, p.stdout)
        for row, value in figures.items():
            self.assertIsNotNone(value, row)

    def test_a_run_that_is_ended_leaves_nothing(self):
        for how in (signal.SIGTERM, signal.SIGKILL):
            with tempfile.TemporaryDirectory() as folder:
                p = subprocess.Popen([f'{HERE}/run', '--build', BUILD, '--rows', 'idle', '--streams', '100'],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                     env={**os.environ, 'TMPDIR': folder})
                started = until(lambda: [c for c in of_folder(folder) if b'engine-provisioner' in c])
                p.send_signal(how)
                p.wait(60)
                self.assertTrue(started)
                self.assertTrue(until(lambda: not of_folder(folder)), of_folder(folder))


if __name__ == '__main__':
    unittest.main()
