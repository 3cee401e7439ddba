// The values of one dimension that lead in one metric. Each row follows its own signal.
import { nameOf } from "./controls";
import { domainOf, supported, touched } from "./cubes";
import { change, columnOf, formatLabel, numberOf, type Unit, type Write } from "./format";
import type { LiveAnswer } from "./live";
import type { Better } from "./metric";
import { Since, useKnown } from "./since";
import { catalog, filters } from "./state";
import type { Filter, Query, Range } from "./types";
import { Change, Exactness, Held, Trouble } from "./ui";

interface Props {
  dimension: string;
  metric: string;
  unit: Unit;
  range: Range;
  limit: number;
  compare?: string;
  better?: Better;
  /** A second number of each row, in small print. */
  second?: { metric: string; unit: Unit; title: string };
  /** A count that decides who leads, where the metric itself would put the rarest first. */
  rankBy?: string;
  intervalMs?: number;
}

/** Width of the longest bar, in percent of the row: the numbers stay clear of it. */
const BAR_PERCENT_MAX = 52;

/** What a leaderboard asks; null where the combination is not counted. Its own filter does not narrow it. */
export function leaderboardQuery({ dimension, metric, range, limit, compare, second, rankBy }: Props, held: readonly Filter[]): Query | null {
  const others = held.filter((filter) => filter.dimension !== dimension);
  if (!supported(domainOf(metric, catalog.value), touched([dimension], others), catalog.value)) return null;
  return {
    metrics: [...new Set([metric, ...(second ? [second.metric] : []), ...(rankBy ? [rankBy] : [])])],
    groupBy: [dimension],
    filters: others,
    range,
    granularity: "total",
    orderBy: `-${rankBy ?? metric}`,
    // One more, for those that lack the dimension: they are no value of it, and stand below. Of the most frequent
    // values some may have nothing of the metric.
    limit: rankBy ? 4 * limit : limit + 1,
    compare: compare !== undefined,
  };
}

export function Leaderboard(props: Props) {
  const { dimension, metric, second } = props;
  const query = leaderboardQuery(props, filters.value);
  const { answer, since } = useKnown(query, [metric, ...(second ? [second.metric] : [])], props.intervalMs ?? 1000);
  const title = nameOf("dimensions", dimension);
  return (
    <section class="card board" aria-label={`${title} by ${nameOf("metrics", metric)}`}>
      <header><h3>{title}</h3><span class="quiet">{nameOf("metrics", metric)}{answer && <> <Exactness meta={answer.meta.value} metric={metric} /></>}{second && <> · {second.title}{answer && <> <Exactness meta={answer.meta.value} metric={second.metric} /></>}</>}{since !== null && <> · <Since at={since} /></>}</span></header>
      {query === null ? <p class="quiet">Not counted together with this filter.</p> : answer ? <Body {...props} answer={answer} /> : <Waiting rows={props.limit} />}
    </section>
  );
}

function Waiting({ rows }: { rows: number }) {
  return <div class="waiting" aria-hidden="true">{Array.from({ length: Math.min(rows, 5) }, (_, at) => <i key={at} />)}</div>;
}

function Body({ answer, ...props }: Props & { answer: LiveAnswer }) {
  const problem = answer.problem.value;
  if (problem) return <Trouble problem={problem} />;
  if (!answer.loaded.value) return <Waiting rows={props.limit} />;
  const keys = answer.keys.value;
  const measured = props.rankBy ? keys.filter((key) => numberOf(answer.row(key)?.[props.metric]) !== null) : keys;
  if (measured.length === 0) return <p class="quiet">Nothing in this range.</p>;
  const isLacking = (key: string) => answer.row(key)?.[props.dimension] == null;
  const values = measured.filter((key) => !isLacking(key)).slice(0, props.limit);
  const lacking = measured.filter(isLacking);
  const top = Math.max(0, ...(values.length > 0 ? values : lacking).map((key) => numberOf(answer.row(key)?.[props.metric]) ?? 0));
  const folded = answer.meta.value?.folded?.includes(props.dimension);
  const shown = [...values, ...lacking];
  const { metric, unit, second } = props;
  const first = columnIn(answer, shown, metric, unit);
  const beside = second && columnIn(answer, shown, second.metric, second.unit);
  return (
    <>
      <ol>{shown.map((key) => <BoardRow key={key} name={key} top={top} first={first} beside={beside} answer={answer} {...props} />)}</ol>
      {folded && <p class="quiet">Rare values are folded into (other).</p>}
    </>
  );
}

/** A column of numbers: all in one unit and with one number of digits, and as wide as the longest. */
interface Column {
  write: Write;
  width: string;
}

function columnIn(answer: LiveAnswer, keys: readonly string[], metric: string, unit: Unit): Column {
  const values = keys.map((key) => numberOf(answer.row(key)?.[metric]));
  const write = columnOf(values, unit);
  return { write, width: `${Math.max(0, ...values.map((value) => write(value).length))}ch` };
}

function BoardRow({ name, top, first, beside, answer, dimension, metric, second, compare, better }: Props & { name: string; top: number; first: Column; beside?: Column; answer: LiveAnswer }) {
  const row = answer.row(name);
  if (!row) return null;
  const value = numberOf(row[metric]);
  const member = row[dimension] == null ? null : String(row[dimension]);
  const share = value !== null && top > 0 ? Math.max(0, Math.min(1, value / top)) : 0;
  return (
    <li class={member === null ? "lacking" : undefined}>
      <Held dimension={dimension} value={member}>
        <i class="bar" style={{ width: `${(share * BAR_PERCENT_MAX).toFixed(1)}%` }} aria-hidden="true" />
        <span class="name">{formatLabel(member)}</span>
        <span class="n" style={{ minWidth: first.width }}>{first.write(value)}</span>
        {second && beside && <span class="n second" style={{ minWidth: beside.width }}>{beside.write(numberOf(row[second.metric]))}</span>}
        {compare !== undefined && <Change ratio={change(value, numberOf(row[`${metric}_previous`]))} better={better ?? "up"} against={compare} beside />}
      </Held>
    </li>
  );
}
