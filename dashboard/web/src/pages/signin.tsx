// The door: a one-time code from the server's log, or a token.
import { useState } from "preact/hooks";
import { problemFrom } from "../api";
import { refusalWords } from "../refusals";
import { codeProblem, signedIn, signIn } from "../state";
import { Logo } from "../ui";

export function SignInPage() {
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    const token = String(new FormData(event.currentTarget as HTMLFormElement).get("token")).trim();
    setBusy(true);
    setProblem("");
    codeProblem.value = "";
    try {
      await signIn({ token });
      if (signedIn.peek() !== "in") setProblem("The server took the token but did not sign you in.");
    } catch (error) {
      setProblem(refusalWords(problemFrom(error)));
    }
    setBusy(false);
  };
  if (signedIn.value === "unknown") return <main id="main" class="door"><p class="quiet" role="status">Opening…</p></main>;
  if (signedIn.value === "unreachable") return <main id="main" class="door"><div class="card" role="status"><Logo /><h1>Nilometer</h1><p>The server cannot be reached. Trying again by itself.</p></div></main>;
  return (
    <main id="main" class="door">
      <form class="card" onSubmit={(event) => void submit(event)}>
        <Logo />
        <h1>Nilometer</h1>
        <p class="quiet">Open the sign-in address that the server gave when it started, or give a read or admin token.</p>
        <label>Token <input type="password" name="token" required autoComplete="current-password" maxLength={512} /></label>
        {(problem || codeProblem.value) && <p class="trouble" role="alert">{problem || codeProblem.value}</p>}
        <button type="submit" class="primary" disabled={busy}>Sign in</button>
        <p class="quiet">Lost it? <code>nilometer keys create read</code> makes another.</p>
      </form>
    </main>
  );
}
