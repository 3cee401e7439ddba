import { describe, expect, it } from "vitest";
import { domainOf, supported, touched } from "../src/cubes";
import { csvField, toCsv } from "../src/csv";
import type { Catalog, Query } from "../src/types";
import { toJson, toParams } from "../src/wire";

describe("a question", () => {
  const query: Query = { metrics: ["events", "dau"], groupBy: ["country"], filters: [{ dimension: "device_type", values: ["tv", null] }], range: { last: "1h" }, granularity: "1m", orderBy: "-events", limit: 8, compare: true };
  it("is JSON as the server reads it", () => {
    expect(toJson(query)).toEqual({ metrics: ["events", "dau"], group_by: ["country"], filter: { device_type: ["tv", null] }, last: "1h", granularity: "1m", order_by: "-events", limit: 8, compare: "previous_period" });
  });
  it("is the same as parameters", () => {
    expect(toParams({ ...query, range: { from: 0, to: 60_000 } }).toString()).toBe(
      "metrics=events%2Cdau&granularity=1m&from=1970-01-01T00%3A00%3A00.000Z&to=1970-01-01T00%3A01%3A00.000Z&group_by=country&filter=device_type%3Atv%2Cnull&order_by=-events&limit=8&compare=previous_period",
    );
  });
});

describe("a combination", () => {
  it.each([
    [[], true], [["country"], true], [["country", "device_type", "content_category"], true], [["device_type", "content_category"], true],
    [["event_type"], true], [["event_type", "country"], true], [["event_type", "device_type"], false], [["event_type", "country", "device_type"], false],
    [["content_id"], true], [["content_id", "country"], false], [["service_name"], true], [["channel", "cohort"], false],
  ])("of events by %j is %s", (names, expected) => expect(supported("events", names, null)).toBe(expected));
  it.each([[["country"], true], [["channel"], true], [["event_type"], false], [["country", "channel"], false]])("of sessions by %j is %s", (names, expected) => expect(supported("sessions", names, null)).toBe(expected));
  it("that the catalogue lists is believed over what is built in", () => {
    const catalog: Catalog = { metrics: [], dimensions: [], cubes: { events: [["content_id", "country"]], sessions: [["cohort"]] } };
    expect(supported("events", ["country", "content_id"], catalog)).toBe(true);
    expect(supported("events", ["country"], catalog)).toBe(false);
    expect(supported("sessions", ["cohort"], catalog)).toBe(true);
  });
  it("counts a dimension that is both grouped and held once", () => {
    expect(supported("events", touched(["content_id"], [{ dimension: "content_id", values: ["x"] }]), null)).toBe(true);
  });
  it("goes by what the metric is of", () => {
    expect(domainOf("bounce_rate", null)).toBe("sessions");
    expect(domainOf("completion_rate", null)).toBe("events");
  });
});

describe("CSV", () => {
  it.each([["=1+1", "'=1+1"], ["+a", "'+a"], ["-a", "'-a"], ["@x", "'@x"], ["\tx", "'\tx"], ["a\"b", '"a""b"'], ["a,b", '"a,b"'], ["a\nb", '"a\nb"'], ["=\"x\"", "\"'=\"\"x\"\"\""], ["plain", "plain"]])("of %j is %j: nothing that a spreadsheet would run", (value, field) => expect(csvField(value)).toBe(field));
  it("keeps numbers numbers, also negative ones, and what is missing empty", () => {
    expect([-1.5, null, undefined, true].map(csvField)).toEqual(["-1.5", "", "", "true"]);
    expect(toCsv(["a", "b"], [{ a: "x", b: -1 }])).toBe("a,b\r\nx,-1\r\n");
  });
});
