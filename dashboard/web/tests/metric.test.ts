import { describe, expect, it } from "vitest";
import { dimensionsOf, supported } from "../src/cubes";
import { betterOf, leadsByCount, nothingOf } from "../src/metric";
import type { Catalog } from "../src/types";

const entry = (name: string, aggregate: string, builtin = false) => ({ name, aggregate, builtin, values: [] });
const catalog: Catalog = {
  metrics: [
    entry("revenue", "sum"), entry("basket", "avg"), entry("cheapest", "min"), entry("dearest", "max"), entry("typical", "quantile"), entry("shoppers", "distinct"),
    entry("watched_duration", "sum"), entry("bounce_rate", "ratio", true), entry("total_duration", "sum", true), entry("events_per_second", "rate", true),
  ],
  dimensions: [],
  cubes: { events: [], sessions: [] },
};

describe("a dimension that somebody declared", () => {
  it("can be chosen beside those that always exist, as the cubes allow", () => {
    const declared: Catalog = { metrics: [], dimensions: [{ name: "country", values: [] }, { name: "plan", values: [] }], cubes: { events: [[], ["country"], ["plan"]], sessions: [[], ["country"]] } };
    expect(dimensionsOf(null)).toContain("country");
    expect(dimensionsOf(declared).filter((name) => supported("events", [name], declared))).toEqual(["country", "plan"]);
    expect(dimensionsOf(declared).filter((name) => supported("sessions", [name], declared))).toEqual(["country"]);
  });
});

describe("a metric", () => {
  it("that adds up is 0 where nothing happened, and nothing where it is a mean", () => {
    const nothing = (names: string[]) => names.map((name) => nothingOf(name, catalog));
    expect(nothing(["revenue", "shoppers", "watched_duration", "total_duration", "events_per_second"])).toEqual([0, 0, 0, 0, 0]);
    expect(nothing(["basket", "cheapest", "dearest", "typical", "bounce_rate"])).toEqual([null, null, null, null, null]);
  });
  it("leads by itself where it adds up or is the largest, and by its count where it is a mean", () => {
    const byCount = (names: string[]) => names.map((name) => leadsByCount(name, catalog));
    expect(byCount(["revenue", "watched_duration", "total_duration", "shoppers", "dearest"])).toEqual([false, false, false, false, false]);
    expect(byCount(["basket", "cheapest", "typical", "bounce_rate"])).toEqual([true, true, true, true]);
  });
  it("is known by its name until the catalogue has come", () => {
    expect(["events", "total_duration", "avg_duration", "p95_session_duration", "completion_rate"].map((name) => nothingOf(name, null))).toEqual([0, 0, null, null, null]);
  });
  it("is better with less where it counts who leaves, and neither way where somebody declared it", () => {
    expect(["bounce_rate", "total_duration", "revenue", "events"].map((name) => betterOf(name, catalog))).toEqual(["down", "up", "neither", "up"]);
  });
});
