// Texts of others, wherever they are shown: a character that acts on the text around it, or on
// nothing that one sees, stands there by its number.
import { options } from "preact";

/** Control characters but tab and newline, and those that decide the direction of what follows. */
const ACTING = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

export function legible(text: string): string {
  return text.replace(ACTING, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Attributes that are read or read aloud. */
const SHOWN = ["title", "aria-label"];

/** Each text that is rendered passes here; what a field holds (`value`) stays as it is. */
export function showLegibly(): void {
  const next = options.vnode;
  options.vnode = (vnode) => {
    const node = vnode as { type: unknown; props: unknown };
    if (node.type === null && typeof node.props === "string") node.props = legible(node.props);
    if (typeof node.type === "string") {
      const props = node.props as Record<string, unknown>;
      for (const name of SHOWN) if (typeof props[name] === "string") props[name] = legible(props[name]);
    }
    next?.(vnode);
  };
}
