// Why the door stays shut, in the page's words: one for each code that the sign-in answers.
import type { Problem } from "./types";

const ANOTHER = "A start of the server in a terminal prints a new address; or give a token.";

const WORDS: Record<string, string> = {
  code_used: `The code in the address was used already: it opens once. ${ANOTHER}`,
  code_expired: `The code in the address is too old. ${ANOTHER}`,
  code_unknown: `The server that runs now does not know the code in the address. ${ANOTHER}`,
  unauthorized: "The server does not know this token: it is not copied whole, or was revoked.",
  forbidden: "This key sends events and reads nothing. It takes a read or an admin token.",
  rate_limited: "Too many tries. Wait a moment, then try again.",
};

/** What to say about a refused sign-in; other refusals say it themselves. */
export function refusalWords({ code, detail }: Problem): string {
  return WORDS[code] ?? detail.charAt(0).toUpperCase() + detail.slice(1);
}
