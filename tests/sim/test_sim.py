#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The traces beside this file through `corral simulate`: what the planner, the ledger and the turns make of
them, in virtual time. The simulator itself fails where an invariant breaks (memory booked beyond a device, a
busy or pinned model evicted, a request lost, answered twice or later than its bound). TAP."""

import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CORRAL = sys.argv[1] if len(sys.argv) > 1 else HERE.parent.parent / 'build' / 'corral'


def simulate(trace):
    """({policy: figures}, [(ms, decision, why)]) of a trace; both runs of it are the same."""
    def run(*flags):
        argv = [CORRAL, 'simulate', *flags, HERE / f'{trace}.trace']
        p = subprocess.run(argv, capture_output=True, text=True)
        assert p.returncode == 0, p.stdout + p.stderr
        return p.stdout
    text = run('--json')
    assert text == run('--json'), 'the same trace gives the same answer'
    log = [re.match(r'(\d+) ([^:]*): (.*)$', line) for line in run('--log').splitlines()]
    return {f['policy']: f for f in json.loads(text)}, [(int(m[1]), m[2], m[3]) for m in log if m]


def whole(figures, requests):
    for policy, f in figures.items():
        assert (f['answered'], f['failed']) == (requests, 0), (policy, f)


def an_hour_of_ten_models():
    figures, log = simulate('box')
    whole(figures, 1943)
    ours, theirs = figures['collate'], figures['first_come']
    assert ours['end_ms'] > 3600_000 and ours['crashes'] >= 3, ours
    assert ours['swaps'] < theirs['swaps'], figures
    assert ours['wait_ms']['mean'] < theirs['wait_ms']['mean'], figures
    evictions = [w for _, w, _ in log if w.startswith('evict ')]
    assert len(evictions) == ours['evictions'], 'each is in the log'
    assert all(re.fullmatch(r'evict \S+ for \S+', w) for w in evictions), 'with the model it made room for'
    assert not any(w.startswith('evict embed') for w in evictions), 'it is pinned'
    assert all(why for _, _, why in log), 'every decision says why'
    print(f'# {ours}\n# {theirs}')


def two_agents_on_two_models():
    figures, _ = simulate('two_agents')
    whole(figures, 400)
    assert 3 * figures['collate']['swaps'] < figures['first_come']['swaps'], figures


def two_keep_a_busy_and_one_asks_for_b():
    figures, log = simulate('busy')
    whole(figures, figures['collate']['answered'])
    asked, max_wait, reply, load = 120_000, 60_000, 2_000, 6_000
    [loaded] = [at for at, w, _ in log if w == 'load b']
    assert loaded <= asked + max_wait + 2 * reply + 1000, log
    assert figures['collate']['loads'] == 3, 'A, B and A again: what a swap costs, once'
    [again] = [at for at, w, _ in log if w == 'load a' and at > loaded]
    assert again <= loaded + load + 3_000 + 1000, log


def a_title_after_a_chat_holds_nobody_up():
    figures, log = simulate('title')
    whole(figures, 3)
    assert 'evict a for b' in [w for at, w, _ in log if at == 13_000], log


def a_tool_call_keeps_its_model():
    figures, log = simulate('tool')
    whole(figures, 3)
    assert [w for _, w, _ in log if 'waits' not in w] == ['load a', 'evict a for b', 'load b'], log
    assert any(w == 'b waits for a' and 'tool calls' in why for _, w, why in log), log
    assert figures['first_come']['swaps'] == 2, 'which it would not without'


CASES = [an_hour_of_ten_models, two_agents_on_two_models, two_keep_a_busy_and_one_asks_for_b,
         a_title_after_a_chat_holds_nobody_up, a_tool_call_keeps_its_model]


def main():
    print(f'1..{len(CASES)}')
    failed = 0
    for number, case in enumerate(CASES, 1):
        try:
            case()
            print(f'ok {number} - {case.__name__}')
        except (AssertionError, ValueError) as error:
            failed += 1
            print(f'not ok {number} - {case.__name__}')
            print(''.join(f'# {line}\n' for line in str(error).splitlines()[:20]), end='')
    return failed > 0


if __name__ == '__main__':
    sys.exit(main())
