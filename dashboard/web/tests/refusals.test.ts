// The words at the door: it is true that each refusal is told apart.
import { expect, test } from "vitest";
import { refusalWords } from "../src/refusals";

test("each refusal of the sign-in has its own words, and others say it themselves", () => {
  const codes = ["code_used", "code_expired", "code_unknown", "unauthorized", "forbidden", "rate_limited"];
  const words = codes.map((code) => refusalWords({ status: 401, code, detail: "" }));
  expect(new Set(words).size).toBe(codes.length);
  expect(words[0]).toContain("used already");
  expect(refusalWords({ status: 403, code: "origin_not_allowed", detail: "the page's origin is x" })).toBe("The page's origin is x");
});
