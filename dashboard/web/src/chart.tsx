// A time series: uPlot for the lines, our own legend, tooltip, table and spoken summary.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { columnsOf, formatClock, formatDay, formatMoment, formatValue, ticksOf, type Unit, type Zone } from "./format";
import { dark } from "./state";

export interface Line {
  label: string;
  unit: Unit;
  values: (number | null)[];
  /** Place in the palette. */
  color: number;
  /** Drawn faint and dashed: the period before. */
  faint?: boolean;
  /** A sum that still grows while its window is open: the last step is dotted. */
  grows?: boolean;
  area?: boolean;
}

export interface TimeChartProps {
  title: string;
  /** Window starts, in epoch milliseconds. */
  windows: number[];
  windowMs: number;
  lines: Line[];
  zone: Zone;
  /** From here on windows are provisional, and hatched; null where nothing is. */
  finalUntil: number | null;
  asOf: number | null;
  height?: number;
  onBrush?: (from: number, to: number) => void;
  /** Windows that were corrected just now. */
  corrected?: number[];
}

/** Dashes beside colours, so that lines can be told apart without either. */
export const DASHES: readonly (readonly number[])[] = [[], [7, 4], [2, 3], [10, 3, 2, 3], [14, 5], [1, 5]];

function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function seriesColor(index: number): string {
  return token(`--series-${(index % DASHES.length) + 1}`);
}

/** Hatches a stretch of the plot. */
function hatch(plot: uPlot, fromX: number, toX: number): void {
  const { ctx, bbox } = plot;
  const left = Math.max(plot.valToPos(fromX, "x", true), bbox.left);
  const right = Math.min(plot.valToPos(toX, "x", true), bbox.left + bbox.width);
  if (right <= left) return;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, bbox.top, right - left, bbox.height);
  ctx.clip();
  ctx.strokeStyle = token("--hatch");
  ctx.lineWidth = devicePixelRatio;
  ctx.beginPath();
  const step = 7 * devicePixelRatio;
  for (let x = left - bbox.height - (left % step); x < right; x += step) {
    ctx.moveTo(x, bbox.top + bbox.height);
    ctx.lineTo(x + bbox.height, bbox.top);
  }
  ctx.stroke();
  ctx.restore();
}

function rings(plot: uPlot, windows: readonly number[]): void {
  const { ctx } = plot;
  const values = plot.data[1];
  ctx.save();
  ctx.strokeStyle = token("--warn");
  ctx.lineWidth = 2 * devicePixelRatio;
  for (const window of windows) {
    const at = plot.data[0].indexOf(window / 1000);
    const value = values?.[at];
    if (at < 0 || value == null) continue;
    ctx.beginPath();
    ctx.arc(plot.valToPos(window / 1000, "x", true), plot.valToPos(value, "y0", true), 6 * devicePixelRatio, 0, 2 * Math.PI);
    ctx.stroke();
  }
  ctx.restore();
}

/** Midnight is a day; what lies between is a clock's reading. */
function tickOf(ms: number, zone: Zone, coarse: boolean): string {
  const clock = formatClock(ms, zone);
  return coarse || clock === "00:00" ? formatDay(ms, zone) : clock;
}

/** Steps of an axis of durations: those of clocks, not of tens. */
const SECONDS_STEPS = [0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 432_000, 864_000, 8_640_000, 86_400_000, 864_000_000];

function stepsOf(unit: Unit | undefined): { incrs?: number[] } {
  return unit === "seconds" ? { incrs: SECONDS_STEPS } : unit === "ms" ? { incrs: SECONDS_STEPS.map((step) => step * 1000) } : {};
}

function scaleOf(lines: readonly Line[], line: Line): string {
  // Two units at most: the first on the left, the other on the right.
  return lines[0]?.unit === line.unit ? "y0" : "y1";
}

function options(props: TimeChartProps, width: number, latest: { current: TimeChartProps }, hover: (at: number | null) => void): uPlot.Options {
  const { lines } = props;
  const axis = { stroke: token("--muted"), grid: { stroke: token("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  const right = lines.find((line) => scaleOf(lines, line) === "y1");
  const range = (_plot: uPlot, min: number, max: number): [number, number] => {
    const top = Number.isFinite(max) && max > 0 ? max * 1.08 : 1;
    return [Math.min(0, Number.isFinite(min) ? min : 0), top];
  };
  return {
    width,
    height: props.height ?? 260,
    padding: [12, right ? 4 : 20, 0, 0],
    legend: { show: false },
    tzDate: (x) => (latest.current.zone === "utc" ? uPlot.tzDate(new Date(x * 1000), "Etc/UTC") : new Date(x * 1000)),
    cursor: { y: false, points: { size: 7 }, drag: { x: Boolean(props.onBrush), y: false, setScale: false } },
    scales: { x: { time: true }, y0: { range }, y1: { range } },
    axes: [
      { ...axis, size: 30, values: (_plot, splits, _axis, _space, increment) => splits.map((x) => tickOf(x * 1000, latest.current.zone, increment >= 86_400)) },
      { ...axis, ...stepsOf(lines[0]?.unit), scale: "y0", size: 62, values: (_plot, splits) => splits.map(ticksOf(splits, lines[0]?.unit ?? "count")) },
      ...(right ? [{ ...axis, ...stepsOf(right.unit), scale: "y1", side: 1, size: 62, grid: { show: false }, values: (_plot: uPlot, splits: number[]) => splits.map(ticksOf(splits, right.unit)) } satisfies uPlot.Axis] : []),
    ],
    series: [
      {},
      ...lines.map((line): uPlot.Series => ({
        scale: scaleOf(lines, line),
        label: line.label,
        stroke: line.faint ? token("--faint") : seriesColor(line.color),
        width: line.faint ? 1.5 : 2,
        dash: line.faint ? [3, 4] : [...DASHES[line.color % DASHES.length]!],
        fill: line.area ? token(`--area-${(line.color % DASHES.length) + 1}`) || undefined : undefined,
        points: { show: line.values.length < 2 },
        spanGaps: false,
      })),
      ...lines.filter((line) => line.grows).map((line): uPlot.Series => ({
        scale: scaleOf(lines, line),
        stroke: seriesColor(line.color),
        width: 1.5,
        dash: [1.5, 3],
        alpha: 0.8,
        points: { show: false },
      })),
    ],
    hooks: {
      drawClear: [(plot) => {
        const { finalUntil, windows, windowMs } = latest.current;
        const last = windows.at(-1);
        if (finalUntil !== null && last !== undefined) hatch(plot, finalUntil / 1000, (last + windowMs) / 1000);
      }],
      draw: [(plot) => rings(plot, latest.current.corrected ?? [])],
      setCursor: [(plot) => hover(plot.cursor.idx ?? null)],
      setSelect: [(plot) => {
        const { left, width: selected } = plot.select;
        if (selected < 6) return;
        latest.current.onBrush?.(plot.posToVal(left, "x") * 1000, plot.posToVal(left + selected, "x") * 1000);
        plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      }],
    },
  };
}

/** Whether the last window is not over yet. */
function isOpen({ windows, windowMs, asOf }: TimeChartProps): boolean {
  return asOf !== null && windows.length > 2 && asOf < windows.at(-1)! + windowMs;
}

/** The lines, and behind them the last steps of those that still grow. */
function dataOf(props: TimeChartProps): uPlot.AlignedData {
  const apart = isOpen(props);
  const cut = (line: Line) => (apart && line.grows ? [...line.values.slice(0, -1), null] : line.values);
  const tails = props.lines.filter((line) => line.grows).map(({ values }) => values.map((value, at) => (apart && at >= values.length - 2 ? value : null)));
  return [props.windows.map((start) => start / 1000), ...props.lines.map(cut), ...tails];
}

/** What a reader who cannot see the chart is told. */
export function summaryOf({ title, windows, lines, zone, finalUntil, windowMs }: TimeChartProps): string {
  if (windows.length === 0) return `${title}: no data.`;
  const parts = lines.filter((line) => !line.faint).map((line) => {
    const known = line.values.filter((value): value is number => value !== null);
    if (known.length === 0) return `${line.label}: no data`;
    const f = (value: number) => formatValue(value, line.unit);
    return `${line.label}: lowest ${f(Math.min(...known))}, highest ${f(Math.max(...known))}, latest ${f(known.at(-1)!)}`;
  });
  const end = windows.at(-1)! + windowMs;
  const provisional = finalUntil !== null && finalUntil < end ? ` Provisional from ${formatMoment(Math.max(finalUntil, windows[0]!), zone)}.` : "";
  return `${title}, ${windows.length} windows from ${formatMoment(windows[0]!, zone)} to ${formatMoment(end, zone)}. ${parts.join(". ")}.${provisional}`;
}

/** Windows of a day are days of UTC, wherever the reader is. */
function inZone(props: TimeChartProps): TimeChartProps {
  return props.windowMs >= 86_400_000 ? { ...props, zone: "utc" } : props;
}

export function TimeChart(given: TimeChartProps) {
  const props = inZone(given);
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(props);
  const [at, setAt] = useState<number | null>(null);
  const [width, setWidth] = useState(0);
  latest.current = props;

  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry!.contentRect.width)));
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, []);

  const shape = JSON.stringify([props.lines.map(({ label, unit, color, faint, area, grows }) => [label, unit, color, faint, area, grows]), Boolean(props.onBrush), props.height, props.zone, dark.value]);
  useEffect(() => {
    if (width === 0) return;
    plot.current = new uPlot(options(props, width, latest, setAt), dataOf(props), box.current!);
    return () => {
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape, width > 0]);
  useEffect(() => {
    if (plot.current && width > 0) plot.current.setSize({ width, height: props.height ?? 260 });
  }, [width]);
  useEffect(() => { plot.current?.setData(dataOf(props)); });

  const move = (event: KeyboardEvent) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || !plot.current) return;
    event.preventDefault();
    const last = props.windows.length - 1;
    const next = Math.min(last, Math.max(0, (at ?? last + (step < 0 ? 1 : 0)) + step));
    const x = plot.current.valToPos(props.windows[next]! / 1000, "x");
    plot.current.setCursor({ left: x, top: 10 });
  };

  const summary = useMemo(() => summaryOf(props), [props.title, props.windows, props.lines, props.finalUntil, props.zone]);
  return (
    <figure class="chart" aria-label={props.title}>
      <Legend lines={props.lines} at={at} zone={props.zone} windows={props.windows} windowMs={props.windowMs} finalUntil={props.finalUntil} />
      <div class="plot" ref={box} role="img" aria-label={summary} tabIndex={0} onKeyDown={move} />
      <TableOf {...props} />
    </figure>
  );
}

/** A stroke as the chart draws it. */
function Swatch({ line }: { line: Line }) {
  return (
    <svg class="swatch" width="22" height="8" aria-hidden="true">
      <line x1="0" x2="22" y1="4" y2="4" class={line.faint ? "faint" : `s${(line.color % DASHES.length) + 1}`} stroke-width="2.5" stroke-dasharray={(line.faint ? [3, 4] : DASHES[line.color % DASHES.length]!).join(" ")} />
    </svg>
  );
}

function Legend({ lines, at, zone, windows, windowMs, finalUntil }: { lines: Line[]; at: number | null; zone: Zone; windows: number[]; windowMs: number; finalUntil: number | null }) {
  const start = at === null ? undefined : windows[at];
  const provisional = finalUntil !== null && windows.length > 0 && finalUntil < windows.at(-1)! + windowMs;
  const cells = start === undefined ? [] : columnsOf(lines);
  return (
    <figcaption class="legend">
      {lines.map((line, place) => (
        <span key={line.label}><Swatch line={line} />{line.label}{start !== undefined && <b>{cells[place]!(line.values[at!] ?? null)}</b>}</span>
      ))}
      {provisional && <span><i class="hatched" aria-hidden="true" />provisional</span>}
      <span class="when" aria-live={start === undefined ? "off" : "polite"}>{start === undefined ? "" : formatMoment(start, zone)}</span>
    </figcaption>
  );
}

/** Most rows of the table beside a chart. */
const TABLE_ROWS_MAX = 1000;

function TableOf({ windows, lines, zone, title, finalUntil, windowMs }: TimeChartProps) {
  const [open, setOpen] = useState(false);
  const cells = open ? columnsOf(lines) : [];
  return (
    <details class="astable" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>Show as table</summary>
      {open && (
        <div class="scroll" tabIndex={0} role="region" aria-label={`${title}, table`}>
          <table>
            <thead><tr><th scope="col">Window ({zone === "utc" ? "UTC" : "local"})</th>{lines.map((line) => <th key={line.label} scope="col" class="n">{line.label}</th>)}<th scope="col">State</th></tr></thead>
            <tbody>
              {windows.map((start, row) => (
                <tr key={start}>
                  <th scope="row">{formatMoment(start, zone)}</th>
                  {lines.map((line, at) => <td key={line.label} class="n">{cells[at]!(line.values[row] ?? null)}</td>)}
                  <td>{finalUntil !== null && start + windowMs > finalUntil ? "provisional" : "final"}</td>
                </tr>
              )).reverse().slice(0, TABLE_ROWS_MAX)}
            </tbody>
          </table>
        </div>
      )}
    </details>
  );
}
