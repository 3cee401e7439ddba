import { describe, expect, it } from "vitest";
import { currentRate, currentValue, fill, previousRateOf, sparkPath, windowsOf } from "../src/series";
import { boundsOf, brushed, describePrevious, granularitiesFor, granularityFor, granularityOr, lengthOf, parseLast, PRESETS, windowLength } from "../src/timerange";

const NOW = Date.UTC(2026, 10, 24, 7, 30);
const HOUR = 3_600_000;
const DAY = 24 * HOUR;

describe("a range", () => {
  it.each([["15m", 900_000], ["1h", HOUR], ["90d", 90 * DAY]])("of %s has its length", (text, length) => expect(parseLast(text)).toBe(length));
  it.each(["", "0m", "1w", "-1h", "1.5h", "h", "1h ", "999999m"])("is not %j", (text) => expect(parseLast(text)).toBeNull());
  it("ends now, or where it says", () => {
    expect(boundsOf({ last: "1h" }, NOW)).toEqual({ from: NOW - HOUR, to: NOW });
    expect(boundsOf({ from: 1, to: 2 }, NOW)).toEqual({ from: 1, to: 2 });
  });
  it("of each preset shows a shape without too many points", () => {
    for (const range of PRESETS) {
      const points = lengthOf(range) / windowLength(granularityFor(range, NOW));
      expect(points, range.last).toBeGreaterThanOrEqual(15);
      expect(points, range.last).toBeLessThanOrEqual(750);
    }
  });
  it("that is old offers only what is kept at its age", () => {
    const old = { from: NOW - 60 * DAY, to: NOW - 60 * DAY + HOUR };
    expect(granularitiesFor(old, NOW)).toEqual(["30m", "1h", "1d"]);
    expect(granularityOr("1m", old, NOW)).toBe("30m");
    expect(granularityOr("1h", old, NOW)).toBe("1h");
  });
  it("that is ancient still offers days", () => expect(granularitiesFor({ from: 0, to: NOW }, NOW)).toEqual(["1d"]));
  it("names the one before it", () => {
    expect(["1h", "6h", "24h", "15m", "7d"].map((last) => describePrevious({ last }))).toEqual(["the hour before", "the 6 hours before", "the day before", "the 15 minutes before", "the 7 days before"]);
  });
});

describe("a brush", () => {
  it("takes whole windows, whichever way it was drawn", () => {
    const expected = { from: 60_000, to: 240_000 };
    expect(brushed(70_000, 190_000, "1m")).toEqual(expected);
    expect(brushed(190_000, 70_000, "1m")).toEqual(expected);
    expect(brushed(60_000, 60_000, "1m")).toEqual({ from: 60_000, to: 120_000 });
  });
});

describe("points", () => {
  const at = (minute: number, events: number | null) => ({ window_start: new Date(minute * 60_000).toISOString(), events });
  it("stand on every window; where there is no row nothing happened", () => {
    const windows = windowsOf(60_001, 300_000, 60_000);
    expect(windows).toEqual([60_000, 120_000, 180_000, 240_000]);
    expect(fill([at(2, 5), at(4, null)], "events", windows, 0)).toEqual([0, 5, 0, null]);
    expect(fill([at(2, 5)], "events", windows, null)).toEqual([null, 5, null, null]);
  });
  it("give the rate of the last whole window and the open one together", () => {
    const rows = [at(8, 9999), at(9, 600), at(10, 300)];
    expect(currentRate(rows, 60_000, 10 * 60_000 + 30_000)).toBeCloseTo(10);
    expect(currentRate([], 60_000, 10 * 60_000)).toBe(0);
    expect(currentRate(rows, 60_000, NaN)).toBeNull();
  });
  it("give the present value, also in the first moments of a window", () => {
    expect(currentValue([at(9, 7), at(10, 8)], "events", 60_000, 600_500)).toBe(8);
    expect(currentValue([at(9, 7)], "events", 60_000, 600_500)).toBe(7);
    expect(currentValue([at(3, 7)], "events", 60_000, 600_500)).toBe(0);
    expect(currentValue([], "events", 60_000, NaN)).toBeNull();
  });
});

describe("the rate of the hour before", () => {
  const at = (minute: number, events: number) => ({ window_start: new Date(minute * 60_000).toISOString(), events: 1, events_previous: events });
  it("is that of two whole minutes, though the present one is open", () => expect(previousRateOf([at(8, 999), at(9, 60), at(10, 180)], 60_000, 600_500)).toBe(2));
  it("counts a minute without events as empty", () => expect(previousRateOf([at(9, 60)], 60_000, 600_500)).toBe(0.5));
  it("is unknown before the first answer", () => expect(previousRateOf([], 60_000, NaN)).toBeNull());
});

describe("a sparkline", () => {
  it("leaves gaps where nothing is known", () => expect(sparkPath([1, 2, null, 2, 1], 40, 10).match(/M/g)).toHaveLength(2));
  it("stays inside its box, and flat values are a line", () => {
    for (const values of [[0, 0, 0], [5, 5], [1, 100, 3], [-4, 2]]) {
      for (const [, y] of sparkPath(values, 40, 10).matchAll(/[ML][\d.]+ ([\d.-]+)/g)) {
        expect(Number(y)).toBeGreaterThanOrEqual(0);
        expect(Number(y)).toBeLessThanOrEqual(10);
      }
    }
  });
  it("of one value is nothing", () => expect(sparkPath([1, null], 40, 10)).toBe(""));
});
