// The frame around the pages: where to go, how the link is, and the keys.
import { useEffect, useState } from "preact/hooks";
import { dark, go, page, signedIn, signOut, state, turnTheme } from "./state";
import { Dialog, Icon, LinkBadge, Logo, LostBanner } from "./ui";
import { formatUrl, PAGES, type Page } from "./urlstate";
import { EventsPage } from "./pages/events";
import { ExplorePage } from "./pages/explore";
import { LivePage } from "./pages/live";
import { SignInPage } from "./pages/signin";
import { SystemPage } from "./pages/system";

const TITLES: Record<Page, string> = { live: "Live", explore: "Explore", events: "Events", system: "System" };

const KEYS: [string, string][] = [
  ["/", "Filter, or find"],
  ["t", "Time range"],
  ["1 – 4", "Live, Explore, Events, System"],
  ["p", "Pause and resume"],
  ["d", "Dark or light"],
  ["← →", "Along a focused chart, or between tabs"],
  ["Esc", "Close what is open"],
  ["?", "This help"],
];

/** Where `/` leads on each page. */
const SEARCHES = ["#search", "#trace-id", "input[type=search]"];

function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

function useKeys(setHelp: (open: boolean) => void): void {
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || document.querySelector("dialog[open]")) return;
      if (!act(event.key, setHelp)) return;
      event.preventDefault();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, []);
}

function act(key: string, setHelp: (open: boolean) => void): boolean {
  switch (key) {
    case "/": {
      const found = SEARCHES.map((selector) => document.querySelector<HTMLElement>(selector)).find(Boolean);
      found?.focus();
      return Boolean(found);
    }
    case "t": {
      const summary = document.querySelector<HTMLElement>("summary#range");
      if (!summary) return false;
      if (!summary.parentElement!.hasAttribute("open")) summary.click();
      return true;
    }
    case "p": {
      const pause = document.querySelector<HTMLElement>("#pause");
      pause?.click();
      return Boolean(pause);
    }
    case "d": turnTheme(); return true;
    case "?": setHelp(true); return true;
    case "1": case "2": case "3": case "4": go({ page: PAGES[Number(key) - 1]! }); return true;
    default: return false;
  }
}

function Nav() {
  return (
    <nav aria-label="Pages">
      {PAGES.map((name) => (
        <a key={name} href={formatUrl({ ...state.value, page: name })} aria-current={page.value === name ? "page" : undefined}
          onClick={(event) => {
            if (event.ctrlKey || event.metaKey || event.shiftKey) return;
            event.preventDefault();
            go({ page: name });
          }}>{TITLES[name]}</a>
      ))}
    </nav>
  );
}

export function App() {
  const [help, setHelp] = useState(false);
  const inside = signedIn.value === "in";
  useKeys(setHelp);
  useEffect(() => { document.title = inside ? `${TITLES[page.value]} · Nilometer` : "Nilometer"; }, [inside, page.value]);
  if (!inside) return <SignInPage />;
  const Shown = { live: LivePage, explore: ExplorePage, events: EventsPage, system: SystemPage }[page.value];
  return (
    <>
      <a class="skip" href="#main">Skip to content</a>
      <header class="top">
        <span class="brand"><Logo />Nilometer</span>
        <Nav />
        <span class="grow" />
        <LinkBadge />
        <button type="button" class="icon-button" aria-label={dark.value ? "Light theme" : "Dark theme"} onClick={turnTheme}><Icon name={dark.value ? "sun" : "moon"} /></button>
        <button type="button" class="icon-button" aria-label="Keyboard help" onClick={() => setHelp(true)}><Icon name="help" /></button>
        <button type="button" class="icon-button" aria-label="Sign out" onClick={() => void signOut()}><Icon name="out" /></button>
      </header>
      <LostBanner />
      <Shown />
      {help && <Help onClose={() => setHelp(false)} />}
    </>
  );
}

function Help({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Keys and signs" onClose={onClose}>
      <dl class="keys">{KEYS.map(([key, says]) => <div key={key}><dt><kbd>{key}</kbd></dt><dd>{says}</dd></div>)}</dl>
      <h3>Reading a number</h3>
      <ul>
        <li><b>Age</b>: how long ago everything that had come by then was counted.</li>
        <li><b>exact</b> or <b>±1.6 %</b>: counted, or estimated with this relative error at 95 %.</li>
        <li><b>Hatched</b>: provisional. Late events may still change these windows; a change is ringed once.</li>
        <li>Click a value to hold everything to it; click it again to let go.</li>
      </ul>
    </Dialog>
  );
}
