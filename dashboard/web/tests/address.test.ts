import { describe, expect, it } from "vitest";
import { formatFilter, isHeld, parseFilter, passes, toggled } from "../src/filters";
import { DEFAULTS, formatUrl, parseUrl, type PageState } from "../src/urlstate";

const through = (state: PageState) => {
  const [path, search] = formatUrl(state).split("?");
  return parseUrl(path!, search ? `?${search}` : "");
};

describe("an address", () => {
  it("gives back what was chosen", () => {
    const state: PageState = {
      ...DEFAULTS, page: "explore", range: { from: Date.UTC(2026, 10, 1), to: Date.UTC(2026, 10, 2) }, granularity: "30m", zone: "utc",
      filters: [{ dimension: "country", values: ["DE", null] }, { dimension: "content_id", values: ["a:b,c\\d", "null", "__other__", "ü & ?"] }],
      metric: "bounce_rate", by: "device_type", compare: false, sort: "-bounce_rate",
    };
    expect(through(state)).toEqual(state);
    const events: PageState = { ...DEFAULTS, page: "events", tab: "trace", id: "a/b?c#d", find: "x=1&y" };
    expect(through(events)).toEqual(events);
  });

  it("says nothing that is a default", () => expect(formatUrl(DEFAULTS)).toBe("/live"));

  it("that cannot be read falls back to the defaults", () => {
    expect(parseUrl("/nowhere", "?last=soon&g=7m&f=&f=%3A&f=NO:1&tz=mars&from=2026-01-02&to=2026-01-01&m=%3Cb%3E")).toEqual({ ...DEFAULTS });
  });

  it("holds one filter for each dimension, and not many", () => {
    expect(parseUrl("/live", "?f=country:DE&f=country:FR").filters).toEqual([{ dimension: "country", values: ["DE"] }]);
    const many = Array.from({ length: 50 }, (_, at) => `f=d${at}:x`).join("&");
    expect(parseUrl("/live", `?${many}`).filters.length).toBe(16);
  });
});

describe("a filter", () => {
  it.each([[["DE"]], [[null]], [["null"]], [["__other__"]], [["\\__other__"]], [["a,b", "c\\"]], [["x:y", "z"]], [["DE", null, "FR"]], [["", "!a", "b*", '"c"', "*", "!", '"', "d\\*", "e!f*g"]]])("of %j is read as it was written", (values) => {
    expect(parseFilter(formatFilter({ dimension: "country", values }))).toEqual({ dimension: "country", values });
  });
  it("writes what the server reads", () => {
    expect(formatFilter({ dimension: "country", values: ["DE", null, "null", "a,b", "__other__", "\\__other__"] })).toBe("country:DE,null,\\null,a\\,b,__other__,\\__other__");
    expect(formatFilter({ dimension: "country", values: ["", "!a", "b*", '"c"', "d!e*f"] })).toBe('country:"",\\!a,b\\*,\\"c",d!e*f');
  });
  it("reads what stands in quotes, and a link of before as it was", () => {
    expect(parseFilter('country:"a,b","","\\"c",null')).toEqual({ dimension: "country", values: ["a,b", "", '"c', null] });
    expect(parseFilter('country:"C:\\temp","\\\\n"')).toEqual({ dimension: "country", values: ["C:\\temp", "\\n"] });
    expect(parseFilter("country:!a,b*")).toEqual({ dimension: "country", values: ["!a", "b*"] });
  });
  it.each(["", "country", ":DE", "country:", "Country:DE", "coun try:x"])("is not %j", (text) => expect(parseFilter(text)).toBeNull());

  it("clicked is held, clicked again is let go", () => {
    const one = toggled([], "country", "DE");
    const two = toggled(one, "country", null);
    expect(isHeld(two, "country", null)).toBe(true);
    expect(toggled(toggled(two, "country", null), "country", "DE")).toEqual([]);
  });

  it("passes an event that has one of its values, or lacks it where that is asked for", () => {
    const filters = [{ dimension: "country", values: ["DE", null] }];
    expect([{ country: "DE" }, { country: "FR" }, { country: null }, {}].map((event) => passes(event, filters))).toEqual([true, false, true, true]);
  });
});
