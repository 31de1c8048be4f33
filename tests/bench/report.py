# SPDX-License-Identifier: Apache-2.0
"""Figures of tests/bench/run as a table, as JSON and as a section of docs/PERFORMANCE.md."""

import datetime
import os
import platform
import re
import statistics

import still

BEGIN, END = '<!-- tests/bench/run begins -->', '<!-- tests/bench/run ends -->'


def median(values):
    return statistics.median(values)


def quartile(values):
    """The lower one. What disturbs a round only ever lengthens its slowest hundredth, and by far: of rounds
    as they are without that, it says more than the median does."""
    return statistics.quantiles(values, n=4)[0] if len(values) > 1 else values[0]


def figure(row, unit, values, limit=None, goal=None, against='least', higher=False, note=''):
    """values: {contestant: figure}. limit and goal are factors of the better peer, or absolute (against
    'value'). higher: more is better."""
    own = values['corral']
    peers = [v for name, v in values.items() if name not in ('corral', 'direct') and v is not None]
    base = 1 if against == 'value' else (max(peers) if higher else min(peers)) if peers else None

    def met(factor):
        if factor is None or base is None:
            return None
        return own >= factor * base if higher else own <= factor * base

    ratio = own / base if base and against != 'value' else None
    return {'row': row, 'unit': unit, 'values': values, 'ratio': ratio,
            'gate': None if base is None else limit, 'goal': None if base is None else goal,
            'against': against, 'higher': higher, 'gate_met': met(limit), 'goal_met': met(goal), 'note': note}


def number(v):
    if v is None:
        return '–'
    if abs(v) >= 1000:
        return f'{v:,.0f}'
    return f'{v:.1f}' if abs(v) >= 10 else f'{v:.2f}'


def judged(r):
    if r['gate'] is None:
        return ''
    sign = '≥' if r['higher'] else '≤'
    what = '' if r['against'] == 'value' else ' ×'
    text = f'{sign} {r["gate"]:g}{what}: {"met" if r["gate_met"] else "MISSED"}'
    if r['goal'] is not None:
        text += f'; goal {r["goal"]:g}{what}: {"met" if r["goal_met"] else "not met"}'
    return text


COLUMNS = ('corral', 'nginx', 'haproxy', 'direct')


def cells(r):
    values = [number(r['values'].get(c)) if c in r['values'] else '' for c in COLUMNS]
    ratio = f'{r["ratio"]:.2f}' if r['ratio'] is not None else ''
    text = '; '.join(filter(None, (judged(r), r['note'])))
    return [f'{r["row"]} ({r["unit"]})', *values, ratio, text]


HEAD = ['figure', 'Corral', 'nginx', 'HAProxy', 'direct', 'ratio', 'gate and goal']


def table(results, heading=True):
    widths = (58, 9, 9, 9, 9, 6, 0)
    lines = []
    for line in ([HEAD] if heading else []) + [cells(r) for r in results]:
        lines.append(line[0].ljust(widths[0]) + ' '.join(c.rjust(w) for c, w in zip(line[1:-1], widths[1:])) +
                     '  ' + line[-1])
    return '\n'.join(lines)


def machine():
    with open('/proc/cpuinfo', encoding='utf-8') as f:
        m = re.search(r'model name\s*:\s*(.*)', f.read())
    return f'{os.cpu_count()} CPUs ({m[1].strip() if m else platform.machine()}), Linux {platform.release()}'


def document(results, a, left_out):
    return {'date': datetime.date.today().isoformat(), 'machine': machine(), 'rounds': a.rounds,
            'seconds': a.seconds, 'rows': results, 'left_out': left_out, 'still': still.told}


def write_docs(doc, path):
    lines = [BEGIN, '', f'{doc["date"]}, {doc["machine"]}: medians of {doc["rounds"]} interleaved rounds of '
             f'{doc["seconds"]:g} s. {still.sentence()}', '',
             '| ' + ' | '.join(HEAD) + ' |', '|---' * len(HEAD) + '|']
    lines += ['| ' + ' | '.join(cells(r)) + ' |' for r in doc['rows']]
    lines += [f'\nLeft out: {line}' for line in doc['left_out']] + ['', END]
    with open(path, encoding='utf-8') as f:
        text = f.read()
    begin, end = text.index(BEGIN), text.index(END) + len(END)
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text[:begin] + '\n'.join(lines) + text[end:])
