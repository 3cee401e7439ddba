// Choosing: the stretch of time, the zone, what everything is held to.
import { useEffect, useRef, useState } from "preact/hooks";
import { dimensionsOf } from "./cubes";
import { isHeld, parseFilter, toggled } from "./filters";
import { formatField, parseField, titleOf } from "./format";
import { catalog, filters, go, link, now, state } from "./state";
import { boundsOf, describeRange, PRESETS } from "./timerange";
import { Icon } from "./ui";

/** The stretch of time that the page shows; `t` opens it. */
export function RangePicker({ presets = PRESETS }: { presets?: typeof PRESETS }) {
  const details = useRef<HTMLDetailsElement>(null);
  const [open, setOpen] = useState(false);
  const { range, zone } = state.value;
  const close = () => {
    details.current?.removeAttribute("open");
    details.current?.querySelector("summary")?.focus();
  };
  useEffect(() => {
    if (open) details.current?.querySelector<HTMLElement>(".panel button")?.focus();
  }, [open]);
  useEffect(() => {
    const outside = (event: Event) => {
      if (!details.current?.contains(event.target as Node)) details.current?.removeAttribute("open");
    };
    document.addEventListener("pointerdown", outside);
    return () => document.removeEventListener("pointerdown", outside);
  }, []);
  return (
    <details class="menu" ref={details} onToggle={(event) => setOpen(event.currentTarget.open)} onKeyDown={(event) => event.key === "Escape" && close()}>
      <summary id="range" aria-label={`Time range: ${describeRange(range, zone)}`}><Icon name="clock" />{describeRange(range, zone)}</summary>
      {open && (
        <div class="panel">
          {presets.map(({ last, title }) => (
            <button type="button" key={last} aria-pressed={"last" in range && range.last === last} onClick={() => { go({ range: { last } }); close(); }}>{title}</button>
          ))}
          <Custom onDone={close} />
        </div>
      )}
    </details>
  );
}

function Custom({ onDone }: { onDone: () => void }) {
  const { range, zone } = state.value;
  const bounds = boundsOf(range, now.peek());
  const [problem, setProblem] = useState("");
  const submit = (event: Event) => {
    event.preventDefault();
    const data = new FormData(event.currentTarget as HTMLFormElement);
    const from = parseField(String(data.get("from")), zone);
    const to = parseField(String(data.get("to")), zone);
    if (!(from < to)) {
      setProblem("The start must lie before the end.");
      return;
    }
    go({ range: { from, to } });
    onDone();
  };
  return (
    <form class="custom" onSubmit={submit}>
      <label>From <input type="datetime-local" name="from" required defaultValue={formatField(bounds.from, zone)} /></label>
      <label>To <input type="datetime-local" name="to" required defaultValue={formatField(bounds.to, zone)} /></label>
      {problem && <p role="alert" class="trouble">{problem}</p>}
      <button type="submit" class="primary">Show</button>
    </form>
  );
}

export function ZoneToggle() {
  const zone = state.value.zone;
  return (
    <button type="button" class="ghost" aria-label={`Times in ${zone === "utc" ? "UTC" : "local time"}; change`} onClick={() => go({ zone: zone === "utc" ? "local" : "utc" }, "replace")}>{zone === "utc" ? "UTC" : "Local"}</button>
  );
}

export function PauseButton() {
  const paused = link.paused.value;
  return <button type="button" id="pause" class="ghost" aria-pressed={paused} onClick={() => link.pause(!paused)}><Icon name={paused ? "play" : "pause"} />{paused ? "Resume" : "Pause"}</button>;
}

/** Most suggestions that are offered. */
const SUGGESTIONS_MAX = 400;

/** Type a dimension's value to hold everything to it; `/` goes here. `seen` are values that the page shows. */
export function FilterBox({ seen }: { seen: { dimension: string; value: string }[] }) {
  const [problem, setProblem] = useState("");
  const known = (catalog.value?.dimensions ?? []).flatMap((entry) => entry.values.map((value) => ({ dimension: entry.name, value })));
  const suggestions = [...new Set([...seen, ...known].map(({ dimension, value }) => `${dimension}:${value.replace(/[\\,]/g, "\\$&")}`))].slice(0, SUGGESTIONS_MAX);
  const dimensions = dimensionsOf(catalog.value);
  const take = (text: string): boolean => {
    // A bare value is looked up among what is known.
    const bare = suggestions.find((suggestion) => suggestion.split(":").slice(1).join(":").toLowerCase() === text.trim().toLowerCase());
    const filter = parseFilter(text.includes(":") ? text.trim() : (bare ?? ""));
    if (!filter || !dimensions.includes(filter.dimension)) return false;
    let next = filters.peek();
    for (const value of filter.values) if (!isHeld(next, filter.dimension, value)) next = toggled(next, filter.dimension, value);
    go({ filters: next });
    return true;
  };
  const submit = (event: Event) => {
    event.preventDefault();
    const input = (event.currentTarget as HTMLFormElement).elements.namedItem("q") as HTMLInputElement;
    if (input.value.trim() === "") return;
    if (take(input.value)) {
      input.value = "";
      setProblem("");
    } else {
      setProblem("Write dimension:value, as in country:DE");
    }
  };
  return (
    <form class="search" role="search" onSubmit={submit}>
      <Icon name="search" />
      <input id="search" name="q" list="suggestions" placeholder="Filter: country:DE" aria-label="Filter by dimension and value" aria-describedby="search-problem" autoComplete="off" maxLength={300}
        onInput={(event) => { setProblem(""); if (suggestions.includes(event.currentTarget.value) && (event as InputEvent).inputType !== "insertText" && take(event.currentTarget.value)) event.currentTarget.value = ""; }} />
      <kbd aria-hidden="true">/</kbd>
      <datalist id="suggestions">{suggestions.map((suggestion) => <option key={suggestion} value={suggestion} />)}</datalist>
      <span id="search-problem" role="status" class={problem ? "hint" : "sr"}>{problem}</span>
    </form>
  );
}

export function Select<T extends string>({ label, value, choices, onChange }: { label: string; value: T; choices: readonly { value: T; title: string }[]; onChange: (value: T) => void }) {
  return (
    <label class="select"><span>{label}</span>
      <select value={value} onChange={(event) => onChange(event.currentTarget.value as T)}>
        {choices.map((choice) => <option key={choice.value} value={choice.value} selected={choice.value === value}>{choice.title}</option>)}
      </select>
    </label>
  );
}

/** A name of the catalogue as people read it. */
export function nameOf(kind: "metrics" | "dimensions", name: string): string {
  return catalog.value?.[kind].find((entry) => entry.name === name)?.title ?? titleOf(name);
}
