"""Chaos, and what each tab must have seen in spite of it: `python -m benchmarks.chaos`.

A real `h2sse serve` on memory history, a publisher that keeps what was acknowledged, and tabs in
processes of their own that note, on disk, what they were given.  Between them things break, as a
seeded plan has it.  In the end every tab's notes are held against what was acknowledged.

plan.py       what breaks, and when: a function of the seed
journal.py    what tabs note, as lines of a file that outlives its process
tabs.py       such a process: event sources of `h2sse.client`, and what can be done to them
publisher.py  events on a timetable, and their acknowledged ids
standing.py   the server, which can be restarted on its port
run.py        the run: all of them, and the plan carried out
judge.py      the verdict: lost, doubled, out of order, or not told
report.py     the report, as Markdown
"""
