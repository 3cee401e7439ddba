import { describe, expect, it } from "vitest";
import { change, columnOf, columnsOf, formatBytes, formatChange, formatChangeBeside, formatClock, formatCompact, formatDelay, formatError, formatField, formatLabel, formatMoment, formatSeconds, formatValue, parseField, ticksOf, unitOf } from "../src/format";

/** Narrow spaces are plain ones here, for reading. */
const plain = (text: string) => text.replace(/\u202f/g, " ");

describe("numbers", () => {
  it.each([
    [0, "0"], [7, "7"], [0.5, "0.50"], [46.91, "46.9"], [999, "999"], [12_345, "12,345"], [99_999, "99,999"],
    [99_999.6, "100 k"], [208_400, "208 k"], [999_499, "999 k"], [999_500, "1.00 M"], [1_234_567, "1.23 M"], [12_345_678, "12.3 M"], [9.99e9, "9.99 G"], [-1_500_000, "-1.50 M"],
    [0.0012, "0.0012"], [-0.034, "-0.034"], [0.000_000_12, "1.20·10⁻⁷"], [999e12, "999 T"], [999.6e12, "1.00·10¹⁵"], [1.7e32, "1.70·10³²"], [-1e30, "-1.00·10³⁰"],
  ])("%d is written %s", (value, text) => expect(plain(formatCompact(value))).toBe(text));

  it("keep every digit where asked", () => expect(formatValue(1_234_567, "count", true)).toBe("1,234,567"));
  it("of a declared scale keep its digits", () => {
    const euros = unitOf("revenue", "EUR", "number", 2);
    expect(euros).toBe("digits2");
    expect([59.95, 60, 0, -0.5, 1234.5].map((value) => formatValue(value, euros))).toEqual(["59.95", "60.00", "0.00", "-0.50", "1,234.50"]);
    expect([formatValue(1_234_567.5, euros, true), plain(formatValue(1_234_567.5, euros))]).toEqual(["1,234,567.50", "1.23 M"]);
    expect(unitOf("watched", "s", "number", 2)).toBe("seconds");
  });
  it.each([
    ["number", [1.5, 999.25, null], ["1.50", "999.25", "–"]],
    ["number", [3, 1_234_567], ["3", "1,234,567"]],
    ["rate", [0.5, 12_345.678], ["0.5", "12,345.7"]],
    ["digits2", [59.95, 1_234_567], ["59.95", "1,234,567.00"]],
    ["seconds", [0.25, 0.0312], ["250 ms", "31 ms"]],
    ["seconds", [0.25, 59.4], ["0.3 s", "59.4 s"]],
    ["seconds", [2, 312], ["0 m 02 s", "5 m 12 s"]],
    ["seconds", [2, 11_050, -60], ["0 h 00 m 02 s", "3 h 04 m 10 s", "−0 h 01 m 00 s"]],
    ["seconds", [1800, 360_000], ["0.5 h", "100.0 h"]],
    ["ms", [250, 1500], ["0.3 s", "1.5 s"]],
    ["bytes", [512, 2_097_152], ["512 B", "2.0 MiB"]],
    ["ratio", [0.5, 0.123], ["50.0 %", "12.3 %"]],
    ["count", [1_234_567, 208_412, 7, 0], ["1,234,567", "208,412", "7", "0"]],
    ["number", [0.0012, 0.034, 0], ["0.001", "0.034", "0.000"]],
    ["number", [1234.5, 0.004], ["1,234.500", "0.004"]],
    ["number", [1e30, 5e29, 12], ["1.00·10³⁰", "0.50·10³⁰", "12"]],
    ["digits2", [59.95, 60, 1234.5, null], ["59.95", "60.00", "1,234.50", "–"]],
    ["digits2", [2e16, 1e15], ["2.00·10¹⁶", "0.10·10¹⁶"]],
    ["seconds", [0.04, 12], ["0.04 s", "12.00 s"]],
    ["seconds", [30, 360_000], ["0.008 h", "100.000 h"]],
    ["ratio", [0.5, 0.0004], ["50.00 %", "0.04 %"]],
    ["ratio", [0, 0], ["0.0 %", "0.0 %"]],
  ] as const)("of a column of %s have one unit and one number of digits", (unit, values, texts) => {
    expect(values.map((value) => plain(columnOf([...values], unit)(value)))).toEqual(texts);
  });
  it("beside each other in a chart are of one scale where they are of one unit", () => {
    const lines = [
      { unit: "seconds", values: [59, 12] },
      { unit: "count", values: [1_234_567] },
      { unit: "seconds", values: [312, null] },
    ] as const;
    const [first, second, third] = columnsOf(lines);
    expect([first!(59), first!(312), third!(312), third!(null)].map(plain)).toEqual(["0 m 59 s", "5 m 12 s", "5 m 12 s", "–"]);
    expect(second!(1_234_567)).toBe("1,234,567");
  });
  it.each([
    ["count", [0, 50_000, 100_000, 150_000], ["0 k", "50 k", "100 k", "150 k"]],
    ["count", [0, 2_500, 5_000, 7_500], ["0", "2,500", "5,000", "7,500"]],
    ["count", [0, 500_000, 1_000_000, 1_500_000], ["0.0 M", "0.5 M", "1.0 M", "1.5 M"]],
    ["number", [0, 0.5, 1, 1.5], ["0.0", "0.5", "1.0", "1.5"]],
    ["rate", [0, 0.002, 0.004], ["0.000", "0.002", "0.004"]],
    ["number", [0, 2e29, 1e30], ["0.00·10³⁰", "0.20·10³⁰", "1.00·10³⁰"]],
    ["digits2", [0, 50, 100], ["0", "50", "100"]],
    ["digits2", [0, 0.5, 1], ["0.00", "0.50", "1.00"]],
    ["digits9", [0, 0.5, 1], ["0.00", "0.50", "1.00"]],
    ["ratio", [0, 0.25, 0.5], ["0 %", "25 %", "50 %"]],
    ["ratio", [0, 0.001, 0.002], ["0.0 %", "0.1 %", "0.2 %"]],
    ["seconds", [0, 0.1, 0.2], ["0 ms", "100 ms", "200 ms"]],
    ["seconds", [0, 15, 30], ["0 s", "15 s", "30 s"]],
    ["seconds", [0, 120, 240], ["0 m", "2 m", "4 m"]],
    ["seconds", [0, 30, 60, 90], ["0 m 00 s", "0 m 30 s", "1 m 00 s", "1 m 30 s"]],
    ["seconds", [0, 1800, 3600, 5400], ["0 h 00 m", "0 h 30 m", "1 h 00 m", "1 h 30 m"]],
    ["seconds", [0, 7200, 14_400], ["0 h", "2 h", "4 h"]],
    ["seconds", [0, 86_400, 172_800], ["0 h", "24 h", "48 h"]],
    ["ms", [0, 60_000, 120_000], ["0 m", "1 m", "2 m"]],
  ] as const)("of an axis of %s are of one unit, with the digits that their step needs", (unit, ticks, texts) => {
    const write = ticksOf(ticks, unit);
    expect(ticks.map((tick) => plain(write(tick)))).toEqual(texts);
  });
  it("that are missing are a dash, not zero", () => expect(formatValue(null, "count")).toBe("–"));
  it("of a ratio are percent", () => expect(plain(formatValue(0.634, "ratio"))).toBe("63.4 %"));
});

describe("durations", () => {
  it.each([
    [0, "0 s"], [0.83, "830 ms"], [0.9996, "1.0 s"], [1.24, "1.2 s"], [9.96, "10 s"], [59.4, "59 s"], [59.6, "1 m 00 s"], [312, "5 m 12 s"], [3599.6, "1 h 00 m"], [11_050, "3 h 04 m"], [190_800, "2 d 5 h"], [-5, "−5.0 s"],
  ])("%d s is written %s", (seconds, text) => expect(plain(formatSeconds(seconds))).toBe(text));
});

describe("a delay", () => {
  it.each([[0, "0.0 s"], [0.64, "0.6 s"], [3780, "3,780.0 s"], [-0.2, "−0.2 s"], [-0.01, "0.0 s"]])("of %d s is written %s, whatever others there are", (seconds, text) => expect(plain(formatDelay(seconds))).toBe(text));
});

describe("bytes", () => {
  it.each([[512, "512 B"], [1024, "1.0 KiB"], [4_881_234_000, "4.5 GiB"], [5e12, "4.5 TiB"]])("%d is written %s", (bytes, text) => expect(plain(formatBytes(bytes))).toBe(text));
});

describe("a change", () => {
  it.each([[0.042, "+4.2 %"], [-0.12, "−12 %"], [0.0001, "±0 %"], [2.4, "×3.4"], [1.5, "+150 %"]])("of %d is written %s", (ratio, text) => expect(plain(formatChange(ratio))).toBe(text));
  it.each([[0.042, "+4.2 %"], [-0.12, "−12.0 %"], [0.0001, "±0.0 %"], [2.4, "+240.0 %"], [12.5, "+1,250.0 %"]])("of %d is written %s in a column", (ratio, text) => expect(plain(formatChangeBeside(ratio))).toBe(text));
  it("against nothing is no change", () => {
    expect(change(5, 0)).toBeNull();
    expect(change(5, null)).toBeNull();
    expect(change(null, 5)).toBeNull();
    expect(change(6, 5)).toBeCloseTo(0.2);
  });
});

describe("an error bound", () => {
  it("is the relative error in percent", () => {
    expect(plain(formatError(0.016))).toBe("±1.6 %");
    expect(plain(formatError(0.0004))).toBe("±0.04 %");
  });
});

describe("times", () => {
  const moment = Date.UTC(2026, 10, 21, 20, 15, 3, 120);
  it("are written in the zone that was asked for", () => {
    expect(formatClock(moment, "utc")).toBe("20:15");
    expect(plain(formatMoment(moment, "utc"))).toBe("21 Nov 20:15");
  });
  it.each(["utc", "local"] as const)("survive a field in %s to the minute", (zone) => {
    expect(parseField(formatField(moment, zone), zone)).toBe(Math.floor(moment / 60_000) * 60_000);
  });
  it("that are no times are NaN", () => expect(parseField("", "utc")).toBeNaN());
});

describe("a value of a dimension", () => {
  it("that is missing, empty or folded is told from text", () => {
    expect([null, "", "__other__", "DE"].map(formatLabel)).toEqual(["(none)", "(empty)", "(other)", "DE"]);
  });
});

describe("a unit", () => {
  it("comes from the catalogue, else from the name", () => {
    expect(unitOf("p95_session_duration")).toBe("seconds");
    expect(unitOf("bounce_rate")).toBe("ratio");
    expect(unitOf("events_per_second")).toBe("rate");
    expect(unitOf("events")).toBe("count");
    expect(unitOf("score", "points")).toBe("number");
    expect(unitOf("share_of_wallet", "ratio")).toBe("ratio");
  });
});
