import { describe, expect, it } from "vitest";
import { corrections, keyOf, ordered, RowSet, sorted } from "../src/delta";
import type { Query, Row } from "../src/types";

const row = (window: number, country: string | null, events: number): Row => ({ window_start: new Date(window * 60_000).toISOString(), country, events });

/** A small, repeatable source of numbers. */
function dice(seed: number): (sides: number) => number {
  let state = seed;
  return (sides) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 4294967296) * sides);
  };
}

/** The difference of two answers, as the server makes it. */
function difference(before: Row[], after: Row[]) {
  const key = (one: Row) => keyOf(one, ["country"], true);
  const old = new Map(before.map((one) => [key(one), one]));
  const kept = new Set(after.map(key));
  return {
    changed: after.filter((one) => JSON.stringify(one) !== JSON.stringify(old.get(key(one)))),
    removed: before.filter((one) => !kept.has(key(one))).map(({ window_start, country }) => ({ window_start, country })),
  };
}

describe("a set of rows", () => {
  it("equals the latest answer after any chain of differences", () => {
    for (let seed = 1; seed <= 200; seed += 1) {
      const roll = dice(seed);
      const answer = () => {
        const rows = new Map<string, Row>();
        for (let at = roll(12); at > 0; at -= 1) {
          const one = row(roll(5), [null, "DE", "FR", ""][roll(4)]!, roll(3));
          rows.set(keyOf(one, ["country"], true), one);
        }
        return [...rows.values()];
      };
      const set = new RowSet(["country"], true);
      let current = answer();
      set.snapshot(7, current);
      for (let revision = 7; revision < 17; revision += 1) {
        const next = answer();
        expect(set.apply({ from: revision, revision: revision + 1, ...difference(current, next) })).toBe(true);
        current = next;
        expect(sorted(set.values(), undefined, ["country"])).toEqual(sorted(current, undefined, ["country"]));
      }
    }
  });

  it("refuses a difference that does not follow, and stays as it was", () => {
    const set = new RowSet(["country"], true);
    expect(set.apply({ from: 0, revision: 1, changed: [], removed: [] })).toBe(false);
    set.snapshot(7, [row(1, "DE", 1)]);
    expect(set.apply({ from: 8, revision: 9, changed: [row(1, "DE", 2)], removed: [] })).toBe(false);
    expect(set.values()).toEqual([row(1, "DE", 1)]);
    expect(set.revision).toBe(7);
  });

  it("keeps a total in place while its window moves", () => {
    const set = new RowSet(["country"], false);
    set.snapshot(1, [row(1, "DE", 5)]);
    set.apply({ from: 1, revision: 2, removed: [{ window_start: row(1, null, 0).window_start, country: "DE" }], changed: [row(2, "DE", 6)] });
    expect(set.values()).toEqual([row(2, "DE", 6)]);
  });
});

describe("a key", () => {
  it("tells null, an empty text and the text null apart", () => {
    const keys = [null, "", "null"].map((country) => keyOf({ country }, ["country"], true));
    expect(new Set(keys).size).toBe(3);
  });
});

describe("order", () => {
  const query = { groupBy: ["country"], orderBy: "-events", limit: 2 } as Query;
  it("is descending by the metric, ties by the dimension, and cut at the limit", () => {
    const rows = [row(1, "FR", 2), row(1, "DE", 2), row(1, "US", 1), row(1, "BR", 9)];
    expect(ordered(rows, query).map((one) => one.country)).toEqual(["BR", "DE"]);
  });
  it("puts what is missing last, both ways", () => {
    const rows: Row[] = [{ country: "A", events: null }, { country: "B", events: 1 }, { country: "C", events: 2 }];
    expect(sorted(rows, "events", ["country"]).map((one) => one.country)).toEqual(["B", "C", "A"]);
    expect(sorted(rows, "-events", ["country"]).map((one) => one.country)).toEqual(["C", "B", "A"]);
  });
});

describe("a correction", () => {
  const before = new Map([row(1, null, 10), row(8, null, 10), row(9, null, 10)].map((one) => [keyOf(one, [], true), one]));
  it("is a change of a window that had ended, and nothing else", () => {
    const after = [row(1, null, 11), row(8, null, 10), row(9, null, 12), row(10, null, 1)];
    const found = corrections(before, after, [], "events", 60_000, 10 * 60_000);
    expect(found).toMatchObject([{ window: 60_000, from: 10, to: 11 }]);
  });
});
