import { describe, expect, it } from "vitest";
import { legible } from "../src/legible";

describe("texts of others", () => {
  it("show what turns the direction of their neighbours by its number", () => {
    expect(legible("a\u202egpj.exe")).toBe("a\\u202egpj.exe");
    expect(legible("\u2066x\u2069\u200f\u061c")).toBe("\\u2066x\\u2069\\u200f\\u061c");
  });

  it("show what nobody sees by its number", () => {
    expect(legible("\0\u001b[2J\u007f\u0085\u2028")).toBe("\\u0000\\u001b[2J\\u007f\\u0085\\u2028");
  });

  it("stay as they are otherwise, in every script, with our own spaces and ties of letters", () => {
    for (const text of ["", "tab\tline\n", "12\u202fs", "שלום", "مرحبا", "👩\u200d🚀", "क्\u200dष", "ä – \u00a0"]) expect(legible(text)).toBe(text);
  });
});
