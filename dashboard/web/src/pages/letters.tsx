// Dead letters: what was refused, why, and a second chance.
import { useState } from "preact/hooks";
import { get, post, problemFrom } from "../api";
import { formatMoment, NONE, titleOf } from "../format";
import { usePoll } from "../poll";
import { go, role, state } from "../state";
import type { Problem } from "../types";
import { Trouble } from "../ui";

interface Letter {
  id: string;
  received_at: string;
  code: string;
  message: string;
  event_id?: string | null;
  user_key?: string | null;
  event_type?: string | null;
  source?: string | null;
  body?: unknown;
  replayed?: boolean;
}

interface Page {
  letters: Letter[];
  next: string | null;
}

const PAGE_ROWS = 50;

export function Letters() {
  const { zone } = state.value;
  const { data, problem, again } = usePoll<Page>(`/v1/dead-letters?limit=${PAGE_ROWS}`, 5000);
  const [older, setOlder] = useState<Page | null>(null);
  const [failed, setFailed] = useState<Problem | null>(null);
  const [open, setOpen] = useState<string | null>(null);
  const letters = [...(data?.letters ?? [])];
  const known = new Set(letters.map((letter) => letter.id));
  letters.push(...(older?.letters ?? []).filter((letter) => !known.has(letter.id)));
  const next = older ? older.next : data?.next;
  const more = async () => {
    try {
      const page = await get<Page>(`/v1/dead-letters?limit=${PAGE_ROWS}&before=${encodeURIComponent(next!)}`);
      setOlder((before) => ({ letters: [...(before?.letters ?? []), ...page.letters], next: page.next }));
      setFailed(null);
    } catch (error) {
      setFailed(problemFrom(error));
    }
  };
  return (
    <section class="card" aria-label="Dead letters">
      {(problem ?? failed) && <Trouble problem={(problem ?? failed)!} />}
      {data && letters.length === 0 && <p class="quiet">No dead letters: every event that came was valid.</p>}
      {letters.length > 0 && (
        <div class="scroll tall" tabIndex={0} role="region" aria-label="Dead letters, newest first">
          <table class="letters">
            <thead><tr><th scope="col">Received</th><th scope="col">Reason</th><th scope="col">What is wrong</th><th scope="col">Type</th><th scope="col">User</th><th scope="col">From</th><th scope="col"><span class="sr">Details</span></th></tr></thead>
            <tbody>
              {letters.map((letter) => (
                <Fragmented key={letter.id} letter={letter} zone={zone} open={open === letter.id} onToggle={() => setOpen(open === letter.id ? null : letter.id)} onReplayed={again} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {next && <p><button type="button" class="ghost" onClick={() => void more()}>Older letters</button></p>}
    </section>
  );
}

function Fragmented({ letter, zone, open, onToggle, onReplayed }: { letter: Letter; zone: "local" | "utc"; open: boolean; onToggle: () => void; onReplayed: () => void }) {
  return (
    <>
      <tr>
        <td>{formatMoment(Date.parse(letter.received_at), zone)}</td>
        <td><span class="badge">{titleOf(letter.code)}</span></td>
        <td class="message">{letter.message}</td>
        <td>{letter.event_type ?? NONE}</td>
        <td class="mono">{letter.user_key ?? NONE}</td>
        <td>{letter.source ?? NONE}</td>
        <td><button type="button" class="plain" aria-expanded={open} onClick={onToggle}>{open ? "Close" : "Fix and replay"}<span class="sr"> letter {letter.id}</span></button></td>
      </tr>
      {open && <tr class="detail"><td colSpan={7}><Editor letter={letter} onReplayed={onReplayed} /></td></tr>}
    </>
  );
}

/** The body as text to edit: laid out where it is JSON, as it came where it is not. */
function textOf(body: unknown): string {
  if (typeof body !== "string") return JSON.stringify(body ?? {}, null, 2);
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}

function Editor({ letter, onReplayed }: { letter: Letter; onReplayed: () => void }) {
  const original = textOf(letter.body);
  const [text, setText] = useState(original);
  const [note, setNote] = useState<{ good: boolean; text: string } | null>(null);
  const [busy, setBusy] = useState(false);
  const admin = role.value === "" || role.value === "admin";
  const send = async () => {
    let event: unknown;
    try {
      event = JSON.parse(text);
    } catch (error) {
      setNote({ good: false, text: `This is not JSON: ${(error as Error).message}` });
      return;
    }
    setBusy(true);
    try {
      const body = await post<{ results: { accepted: boolean; code?: string; message?: string }[] }>("/v1/dead-letters/replay", text === original ? { id: letter.id } : { id: letter.id, event });
      const result = body.results[0];
      setNote(result?.accepted ? { good: true, text: "Accepted: it counts from now on." } : { good: false, text: result?.message ?? result?.code ?? "Rejected again." });
      onReplayed();
    } catch (error) {
      setNote({ good: false, text: problemFrom(error).detail });
    }
    setBusy(false);
  };
  return (
    <div class="editor">
      <label>Event<textarea rows={Math.min(18, Math.max(6, text.split("\n").length + 1))} spellcheck={false} value={text} onInput={(event) => setText(event.currentTarget.value)} /></label>
      <p class="row">
        <button type="button" class="primary" disabled={busy || !admin} onClick={() => void send()}>{text === original ? "Replay as it is" : "Replay fixed"}</button>
        {text !== original && <button type="button" class="ghost" onClick={() => setText(original)}>Undo changes</button>}
        {letter.event_id && <button type="button" class="ghost" onClick={() => go({ tab: "trace", id: letter.event_id! })}>Trace</button>}
        {!admin && <span class="quiet">Replaying needs an admin token.</span>}
        <span role="status" class={note ? (note.good ? "good" : "trouble") : "sr"}>{note?.text}</span>
      </p>
    </div>
  );
}
