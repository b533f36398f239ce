/** Numbers, bytes, durations and ages as people read them. Unknown values are an en dash. */

import type { Number } from "./types";

export const NONE = "–";
const THIN = "\u202f"; // narrow no-break space between a number and its unit

const isKnown = (x: Number | undefined): x is number =>
  x !== null && x !== undefined && !globalThis.Number.isNaN(x);

/** `12345` -> `12,345`. */
export function count(x: Number | undefined): string {
  return isKnown(x) ? Math.round(x).toLocaleString("en-US") : NONE;
}

/** Three significant digits and a suffix: `950`, `8.12k`, `31.4M`, `1.20B`, `2.05T`. */
export function short(x: Number | undefined): string {
  return scaled(x, 1000, ["", "k", "M", "B", "T", "Q"], "");
}

/** `512 B`, `1.25 GB` (powers of 1,000). */
export function bytes(x: Number | undefined): string {
  return scaled(x, 1000, ["B", "kB", "MB", "GB", "TB", "PB", "EB"], THIN);
}

/** `12.5 MB/s`. */
export function rate(x: Number | undefined): string {
  return isKnown(x) ? `${bytes(x)}/s` : NONE;
}

function scaled(x: Number | undefined, base: number, units: string[], gap: string): string {
  if (!isKnown(x)) return NONE;
  let value = Math.abs(x);
  let unit = 0;
  while (value >= base * 0.9995 && unit < units.length - 1) {
    value /= base;
    unit += 1;
  }
  const whole = unit === 0 && globalThis.Number.isInteger(x);
  const digits = whole ? String(value) : significant(value);
  const name = units[unit] ?? "";
  return `${x < 0 ? "−" : ""}${digits}${name === "" ? "" : gap}${name}`;
}

/** Three significant digits without an exponent, for values below a million. */
function significant(value: number): string {
  if (value === 0) return "0";
  const rounded = globalThis.Number(value.toPrecision(3)); // 99.95 has one digit less to show
  const places = Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(rounded) + 1e-12)));
  return value.toFixed(places);
}

/** A measured figure: fixed decimals where they tell something. `2.314`, `0.00031`, `1.2e-7`. */
export function figure(x: Number | undefined, places = 3): string {
  if (!isKnown(x)) return NONE;
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size < 1e-4) return minus(x.toExponential(1));
  if (size < 10 ** -places * 10) return minus(x.toPrecision(2));
  if (size >= 1e6) return short(x);
  return minus(x.toFixed(size >= 1000 ? 0 : size >= 100 ? Math.min(1, places) : places));
}

/** On an axis whose lines are `step` apart: as many decimals as it takes to tell them apart. */
export function tick(x: number, step: number): string {
  if (x === 0) return "0";
  if (Math.abs(x) >= 1e5) return short(x).replace(/\.?0+(?=\D|$)/, "");
  if (step < 1e-5) return minus(x.toExponential(0));
  let places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const scaled = step * 10 ** places;
  if (Math.abs(scaled - Math.round(scaled)) > 1e-6) places += 1; // 0.25 needs two
  return minus(x.toFixed(places));
}

const minus = (text: string): string => text.replace(/^-/, "−").replace("e-", "e−");

/** `0.413` -> `41 %`; small shares keep a digit. */
export function percent(x: Number | undefined): string {
  if (!isKnown(x)) return NONE;
  const value = x * 100;
  const places = value !== 0 && Math.abs(value) < 9.95 ? 1 : 0;
  return `${value.toFixed(places)}${THIN}%`;
}

/** `12×`, `1,180×`. */
export function times(x: Number | undefined): string {
  if (!isKnown(x)) return NONE;
  return `${x >= 100 ? count(x) : significant(x).replace(/\.0+$/, "")}×`;
}

/** A length of time, two units at most: `850 ms`, `4.2 s`, `3 m 20 s`, `2 h 5 m`, `6 d 4 h`. */
export function duration(seconds: Number | undefined): string {
  if (!isKnown(seconds)) return NONE;
  const t = Math.max(0, seconds);
  if (t === 0) return `0${THIN}s`;
  if (t < 0.9995) return `${Math.round(t * 1000)}${THIN}ms`;
  if (t < 9.95) return `${t.toFixed(1)}${THIN}s`;
  const whole = Math.round(t);
  if (whole < 60) return `${whole}${THIN}s`;
  const steps: [number, string, number, string][] = [
    [60, "m", 1, "s"],
    [3600, "h", 60, "m"],
    [86400, "d", 3600, "h"],
  ];
  const [size, unit, small, smallUnit] =
    steps[whole < 3600 ? 0 : whole < 86400 ? 1 : 2] ?? [1, "s", 1, "s"];
  const big = Math.floor(whole / size);
  const rest = Math.floor((whole % size) / small);
  const head = `${count(big)}${THIN}${unit}`;
  return rest === 0 || big >= 100 ? head : `${head} ${rest}${THIN}${smallUnit}`;
}

/** How long ago: `now`, `12 s ago`, `3 m ago`, `2 h ago`, `6 d ago`. */
export function age(at: Number | undefined, now: number): string {
  if (!isKnown(at)) return NONE;
  const t = Math.max(0, now - at);
  if (t < 2) return "now";
  if (t < 60) return `${Math.floor(t)}${THIN}s ago`;
  if (t < 3600) return `${Math.floor(t / 60)}${THIN}m ago`;
  if (t < 86400) return `${Math.floor(t / 3600)}${THIN}h ago`;
  return `${count(Math.floor(t / 86400))}${THIN}d ago`;
}

/** The viewer's time of day: `14:03:21`. */
export function clock(at: Number | undefined): string {
  if (!isKnown(at)) return NONE;
  const d = new Date(at * 1000);
  const two = (n: number): string => String(n).padStart(2, "0");
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

/** `2026-11-30 14:03`. */
export function date(at: Number | undefined): string {
  if (!isKnown(at)) return NONE;
  const d = new Date(at * 1000);
  const two = (n: number): string => String(n).padStart(2, "0");
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock(at).slice(0, 5)}`;
}

/** `1 peer`, `1,200 peers`. */
export function counted(n: number, noun: string, plural = `${noun}s`): string {
  return `${count(n)} ${n === 1 ? noun : plural}`;
}

/** The first signs of a hash. */
export function brief(hash: string, signs = 10): string {
  return hash.length > signs + 2 ? `${hash.slice(0, signs)}…` : hash;
}
