// Asking again and again, one question at a time, while the page is looked at.
import { useEffect, useRef, useState } from "preact/hooks";
import { get, problemFrom } from "./api";
import type { Problem } from "./types";

/** The latest answer of a path; on a problem the last good one stays beside it. */
export function usePoll<T>(path: string, everyMs: number): { data: T | null; problem: Problem | null; again: () => void } {
  const [data, setData] = useState<T | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const again = useRef(() => {});
  useEffect(() => {
    let stopped = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const ask = async () => {
      clearTimeout(timer);
      if (document.visibilityState === "visible") {
        try {
          const read = await get<T>(path);
          if (stopped) return;
          setData(read);
          setProblem(null);
        } catch (error) {
          if (stopped) return;
          setProblem(problemFrom(error));
        }
      }
      timer = setTimeout(() => void ask(), everyMs);
    };
    again.current = () => void ask();
    void ask();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, [path, everyMs]);
  return { data, problem, again: again.current };
}
