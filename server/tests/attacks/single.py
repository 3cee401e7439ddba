#!/usr/bin/env python3
"""Attacks a server in one way after the other, beside honest clients, and prints of each what it
cost them: memory before, at most and after, how long their requests took, and how long until all
was given back. Fails for whatever did not hold. Numbers are of the kinds of attacks, by which they
are named in docs/security.md; words pick cases by their name."""

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback

import asking
import filling
import holding
import house
import inside
import speaking

# The default limit of memory and what a process may be above it, in MiB.
MEMORY_MIB = 590
# What connections may cost above what was there before.
GROWN_MIB = 100
# 99 of 100 honest requests, and the slowest, on a machine that is shared with the attacker.
P99_SECONDS, MOST_SECONDS = 0.5, 5
# A small dose takes no longer.
SMALL_SECONDS = 2
# Descriptors that may be more than before; of what sends events so many, for files of layers, ids
# and segments.
DESCRIPTORS, FILES = 24, 600
SENDING = (3, 4, 5, 6, 11)
# How long until everything is given back.
CALM_SECONDS = 10


class Attack:
    """What a case is given: whom it attacks, with what, and for how long."""

    def __init__(self, server, role, small, seconds):
        self.server, self.role, self.small = server, role, small
        self.tokens = server.tokens
        self.seconds = seconds
        self.until = time.monotonic() + seconds
        self.attempts = 0

    def begin(self):
        """It begins only now: what came before was to prepare it."""
        self.until = time.monotonic() + self.seconds

    def is_over(self):
        return time.monotonic() > self.until

    def dose(self, heavy, small=None):
        return (small or max(1, heavy // 10)) if self.small else heavy

    def tried(self, count=1):
        self.attempts += count

    def hold(self):
        """Whatever is held stays so until the attack is over."""
        time.sleep(max(0, self.until - time.monotonic()))

    def expect(self, holds, what):
        if not holds:
            raise AssertionError(what)


def attempt(case, attack, results):
    """Runs the case in a process of its own; what it saw goes into `results`."""
    os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        seen, fault = case.run(attack), None
    except AssertionError as broken:
        seen, fault = None, str(broken)[:600]
    except Exception:
        seen, fault = None, "the attack itself broke: " + traceback.format_exc()[-600:]
    results.put((seen, fault, attack.attempts))


def percentile(took, share):
    return sorted(took)[min(len(took) - 1, int(len(took) * share))] if took else float("inf")


class Row:
    def __init__(self, case):
        self.case, self.faults = case, []

    def hold(self, holds, what):
        if not holds:
            self.faults.append(what)


def run(case, server, small, keys):
    """One case: its row."""
    row = Row(case)
    seconds = min(case.seconds / 3, SMALL_SECONDS) if small else case.seconds
    before_mib, held = server.memory_mib(), server.held()
    server.forget_peak()
    honest = house.Honest(server, *keys[:2])
    time.sleep(0.2)
    results = multiprocessing.Queue()
    attack = Attack(server, case.role, small, seconds)
    attacker = multiprocessing.Process(target=attempt, args=(case, attack, results))
    attacker.start()
    most_mib = before_mib
    seen, fault, attempts = None, "the attack did not end", 0
    until = time.monotonic() + seconds + 120
    while time.monotonic() < until and server.is_alive():
        most_mib = max(most_mib, server.memory_mib())
        try:
            seen, fault, attempts = results.get(timeout=0.05)
            break
        except Exception:
            if not attacker.is_alive() and results.empty():
                break
    attacker.join(5)
    attacker.kill()
    row.hold(fault is None, fault)
    row.hold(server.is_alive(), f"the server ended: {server.log.read_text()[-500:]}")
    if not server.is_alive():
        return row
    files = FILES if case.item in SENDING else DESCRIPTORS
    calm = until_calm(server, held, files, case.calm)
    took, failed, accepted = honest.end()
    keys[2] += accepted
    row.attempts, row.seen = attempts, seen
    peak_mib = max(most_mib, server.memory_mib("VmHWM"))
    row.memory = before_mib, peak_mib, server.memory_mib()
    row.took = [percentile(took, share) for share in (0.5, 0.99, 1)]
    row.failed, row.calm = len(failed), calm
    grown = case.grown or GROWN_MIB
    row.hold(peak_mib <= MEMORY_MIB, f"{peak_mib:.0f} MiB are more than {MEMORY_MIB}")
    row.hold(peak_mib - before_mib <= grown, f"{peak_mib - before_mib:.0f} MiB more, not {grown}")
    row.hold(not failed, f"{len(failed)} of {len(took) + len(failed)} honest requests failed: {failed[:2]}")
    row.hold(row.took[1] <= case.p99, f"p99 {row.took[1] * 1e3:.0f} ms")
    row.hold(row.took[2] <= MOST_SECONDS, f"at most {row.took[2] * 1e3:.0f} ms")
    row.hold(calm is not None, f"not given back: {held} before, {server.held()} now")
    row.hold("panicked" not in server.log.read_text(), "something panicked")
    return row


def until_calm(server, before, files, patience):
    """Seconds until what was held is given back; None where it is not."""
    begun = time.monotonic()
    while (took := time.monotonic() - begun) < patience:
        now = server.held()
        few = now["descriptors"] <= before["descriptors"] + files
        if few and now["bodies"] <= before["bodies"] and now["queue"] == 0:
            return took
        time.sleep(0.05)
    return None


def show(row):
    case = row.case
    line = f"{case.item:>2} {case.role:<7} {case.name[:70]:<70}"
    if hasattr(row, "memory"):
        before, peak, after = row.memory
        p50, p99, most = (took * 1e3 for took in row.took)
        calm = "never" if row.calm is None else f"{row.calm:.1f}"
        line += f" {row.attempts:>8} {before:>5.0f} {peak:>5.0f} {after:>5.0f}"
        line += f" {p50:>6.1f} {p99:>7.1f} {most:>7.1f} {calm:>5}"
    print(line, flush=True)
    if getattr(row, "seen", None):
        print(f"     {row.seen}", flush=True)
    for fault in row.faults:
        print(f"   ! {fault}", flush=True)


def exact(server, accepted):
    """Whether every honest event counts, once; None where it does."""
    until = time.monotonic() + 60
    while True:
        rows = server.read("/v1/query?metrics=events&granularity=total&last=24h&filter=event_type:honest")["rows"]
        counted = rows[0]["events"] if rows else 0
        pipeline = server.read("/v1/pipeline")
        if counted == accepted and pipeline["residual"] == 0:
            return None
        if time.monotonic() > until:
            return f"{accepted} honest events, {counted} counted, residual {pipeline['residual']}"
        time.sleep(0.2)


def run_all(cases, options):
    """Runs the cases, as many as can beside one another on one server; gives the rows that fail."""
    failed = 0
    settings = None
    with contextlib.ExitStack() as stack:
        server = keys = None
        for case in cases:
            if case.settings != settings or not server.is_alive() or case.fresh:
                failed += finish(server, keys)
                stack.close()
                folder = stack.enter_context(house.folder())
                server = house.Server(options.binary, folder, case.settings, case.shell)
                stack.enter_context(server)
                settings = case.settings
                keys = [server.new_key("honest", "server"), server.new_key("asker", "read"), 0]
                server.new_key("server", "server")
            row = run(case, server, options.small, keys)
            show(row)
            failed += bool(row.faults)
        failed += finish(server, keys)
    return failed


def finish(server, keys):
    if server is None or not server.is_alive():
        return 0
    wrong = exact(server, keys[2])
    if wrong:
        print(f"   ! {wrong}", flush=True)
    return bool(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", metavar="NUMBER or WORD")
    parser.add_argument("--binary", required=True)
    parser.add_argument("--small", action="store_true", help="small doses")
    parser.add_argument("--sample", action="store_true", help="a few of each kind")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    options = parser.parse_args()
    modules = (holding, filling, inside, asking, speaking)
    cases = sorted((case for module in modules for case in module.CASES), key=lambda case: case.item)
    numbers = {int(word) for word in options.which if word.isdigit()}
    words = [word for word in options.which if not word.isdigit()]
    cases = [case for case in cases if not numbers or case.item in numbers]
    cases = [case for case in cases if case.in_sample or not options.sample]
    cases = [case for case in cases if all(word in f"{case.name} {case.role}" for word in words)]
    if options.list:
        for case in cases:
            print(f"{case.item:>2} {case.role:<7} {case.name}")
        return
    print(f"{'':>2} {'key':<7} {'attack':<70} {'attempts':>8}   MiB: before, peak, after   ms: p50, p99, most  calm s")
    failed = run_all(cases, options)
    print(f"{len(cases)} attacks, {failed} did not hold")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
