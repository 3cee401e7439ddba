// What the whole page knows: who is signed in, the address, the catalogue, the link, the theme.
import { computed, effect, signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { post, problemFrom, readCatalog, readSession, request, whenSignedOut } from "./api";
import { Link, type LiveAnswer } from "./live";
import { refusalWords } from "./refusals";
import type { Catalog, Query } from "./types";
import { formatUrl, parseUrl, type PageState } from "./urlstate";
import { toJson } from "./wire";

export type SignedIn = "unknown" | "in" | "out" | "unreachable";

export const signedIn = signal<SignedIn>("unknown");
export const role = signal<string>("");
export const catalog = signal<Catalog | null>(null);
/** The present, to the second: what is relative to it follows this. */
export const now = signal(Date.now());
setInterval(() => { now.value = Date.now(); }, 1000);

export const state = signal<PageState>(parseUrl(location.pathname, location.search));
export const page = computed(() => state.value.page);
export const zone = computed(() => state.value.zone);
export const filters = computed(() => state.value.filters);

/** Changes the address. A new page or a filter is a step that Back undoes; typing is not. */
export function go(change: Partial<PageState>, how: "push" | "replace" = "push"): void {
  const next = { ...state.peek(), ...change };
  const url = formatUrl(next);
  if (url !== location.pathname + location.search) history[how === "push" ? "pushState" : "replaceState"](null, "", url);
  state.value = next;
}

addEventListener("popstate", () => { state.value = parseUrl(location.pathname, location.search); });

export const link = new Link(() => void checkSession());
whenSignedOut(() => { signedIn.value = "out"; });

async function checkSession(): Promise<void> {
  try {
    const session = await readSession();
    role.value = session.role ?? "";
    signedIn.value = session.signed_in ? "in" : "out";
  } catch {
    // The server is away, not unwilling: what is shown stays, and the link tries again.
    if (signedIn.peek() === "unknown" || signedIn.peek() === "unreachable") {
      signedIn.value = "unreachable";
      setTimeout(() => void checkSession(), 2000);
    }
  }
}

/** Exchanges a code or a token for the session's cookie. */
export async function signIn(secret: { code: string } | { token: string }): Promise<void> {
  await post("/v1/session", secret);
  await checkSession();
}

export async function signOut(): Promise<void> {
  await request("DELETE", "/v1/session");
  signedIn.value = "out";
}

/** Why the code in the address did not open the door. */
export const codeProblem = signal("");

/** Takes a one-time code out of the address, so that it is in no history, and signs in. */
export async function begin(): Promise<void> {
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (code) {
    history.replaceState(null, "", location.pathname + location.search);
    codeProblem.value = "";
    try {
      await signIn({ code });
      return;
    } catch (error) {
      codeProblem.value = refusalWords(problemFrom(error));
    }
  }
  await checkSession();
}

effect(() => {
  if (signedIn.value === "in") {
    link.start();
    void readCatalog().then((read) => { catalog.value = read; }, () => {});
  } else {
    link.stop();
  }
});

/** Follows a question for as long as the component stands; null asks nothing. */
export function useLive(query: Query | null, intervalMs = 1000): LiveAnswer | null {
  const [answer, setAnswer] = useState<LiveAnswer | null>(null);
  const name = query ? JSON.stringify(toJson(query)) : "";
  useEffect(() => {
    if (!query) {
      setAnswer(null);
      return;
    }
    const following = link.follow(query, intervalMs);
    setAnswer(following.answer);
    return following.end;
  }, [name, intervalMs]);
  return answer;
}

export type Theme = "system" | "light" | "dark";
const THEME_KEY = "nilometer.theme";
export const theme = signal<Theme>((localStorage.getItem(THEME_KEY) as Theme | null) ?? "system");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
export const dark = signal(prefersDark.matches);

effect(() => {
  const chosen = theme.value;
  const isDark = chosen === "dark" || (chosen === "system" && prefersDark.matches);
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  if (chosen === "system") localStorage.removeItem(THEME_KEY);
  else localStorage.setItem(THEME_KEY, chosen);
  dark.value = isDark;
});
prefersDark.addEventListener("change", () => { theme.value = theme.peek() === "system" ? "system" : theme.peek(); refreshTheme(); });

function refreshTheme(): void {
  if (theme.peek() !== "system") return;
  document.documentElement.dataset.theme = prefersDark.matches ? "dark" : "light";
  dark.value = prefersDark.matches;
}

export function turnTheme(): void {
  theme.value = dark.peek() ? "light" : "dark";
}
