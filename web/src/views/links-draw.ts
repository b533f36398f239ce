/** Paints the link matrix: labels that stay, cells that scroll under them, owners at the edge. */

import { percent } from "../format";
import { clipped, tokens } from "./kit";
import { isLight, ramped, type Matrix, type Measure, type Scale } from "./matrix";

export interface Layout {
  width: number;
  height: number;
  left: number; // of the cells
  top: number;
  right: number; // where the owners' column begins
  cell: number;
}

export interface Look {
  x: number; // scrolled
  y: number;
  row: number; // pointed at; -1: none
  column: number;
}

export type Palette = ReturnType<typeof palette>;

export function palette() {
  return tokens(
    "--ink", "--ink-2", "--ink-3", "--rule", "--rule-2", "--paper", "--sunken", "--bad", "--accent",
    "--focus", "--sans", "--seq-0", "--seq-1", "--seq-2", "--seq-3", "--seq-4", "--seq-5",
    "--warn-soft", "--warn",
  );
}

/** Loss goes towards what is bad; the others are one hue from little to much. */
export function stops(colours: Palette, measure: Measure): string[] {
  if (measure === "loss") return [colours["--seq-0"], colours["--warn-soft"], colours["--warn"], colours["--bad"]];
  return [0, 1, 2, 3, 4, 5].map((i) => colours[`--seq-${i as 0}`]);
}

const FIGURES = 60; // pixels of a cell that has room for its figure

/** As large as there is room for, from 13 pixels on; what does not fit then scrolls. */
export function layout(matrix: Matrix, width: number, most: number): Layout {
  const size = Math.max(1, matrix.labels.length);
  const narrow = width < 620;
  const longest = Math.max(4, ...matrix.labels.map(({ name }) => Math.min(18, name.length)));
  const left = Math.min(narrow ? 96 : 150, longest * 7 + 14);
  const edge = narrow ? 44 : 108;
  const cell = Math.max(13, Math.min(size > 10 ? 34 : 72, Math.floor((width - left - edge) / size)));
  const top = Math.min(112, longest * 5 + 18);
  const right = Math.min(width - edge, left + size * cell) + 10;
  return { width, height: Math.min(most, top + size * cell + 2), left, top, right, cell };
}

export function drawMatrix(
  context: CanvasRenderingContext2D,
  matrix: Matrix,
  scale: Scale | null,
  measure: Measure,
  place: Layout,
  look: Look,
  format: (value: number) => string,
): void {
  const colours = palette();
  context.save();
  context.beginPath();
  context.rect(place.left, place.top, place.right - 10 - place.left, place.height - place.top);
  context.clip();
  drawCells(context, matrix, scale, stops(colours, measure), place, look, colours, format);
  context.restore();
  drawRows(context, matrix, place, look, colours);
  drawColumns(context, matrix, place, look, colours);
}

function drawCells(
  context: CanvasRenderingContext2D,
  matrix: Matrix,
  scale: Scale | null,
  colourStops: string[],
  { left, top, right, height, cell }: Layout,
  look: Look,
  colours: Palette,
  format: (value: number) => string,
): void {
  const size = matrix.labels.length;
  const shades = ramped(colourStops);
  const shade = (at: number): string => shades[Math.round(at * (shades.length - 1))]!;
  context.font = `11px ${colours["--sans"]}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const [row0, row1] = [Math.floor(look.y / cell), Math.ceil((look.y + height - top) / cell)];
  const [col0, col1] = [Math.floor(look.x / cell), Math.ceil((look.x + right - left) / cell)];
  for (let row = row0; row < Math.min(size, row1); row++) {
    for (let column = col0; column < Math.min(size, col1); column++) {
      const x = left + column * cell - look.x;
      const y = top + row * cell - look.y;
      const found = matrix.cells[row * size + column];
      if (!found || found.pairs === 0 || !scale) {
        context.fillStyle = row === column ? colours["--sunken"] : colours["--rule"];
        if (row === column) context.fillRect(x, y, cell - 1, cell - 1);
        else context.fillRect(x + cell / 2 - 1, y + cell / 2 - 1, 2, 2);
        continue;
      }
      const inset = found.active ? 0 : Math.round(cell * 0.24);
      const colour = shade(scale.at(found.value));
      context.fillStyle = colour;
      context.fillRect(x + inset, y + inset, cell - 1 - 2 * inset, cell - 1 - 2 * inset);
      if (cell < FIGURES || inset > 0) continue;
      context.fillStyle = isLight(colour) ? "#101416" : "#ffffff";
      context.fillText(format(found.value), x + cell / 2, y + cell / 2);
    }
  }
  if (look.row < 0 || look.column < 0) return;
  context.strokeStyle = colours["--ink"];
  context.lineWidth = 1.5;
  context.strokeRect(left + look.column * cell - look.x, top + look.row * cell - look.y, cell - 1, cell - 1);
}

/** Names at the left; at the right, how much of the slices each owns. */
function drawRows(
  context: CanvasRenderingContext2D,
  matrix: Matrix,
  { left, top, right, width, height, cell }: Layout,
  look: Look,
  colours: Palette,
): void {
  context.save();
  context.beginPath();
  context.rect(0, top, width, height - top);
  context.clip();
  context.textBaseline = "middle";
  const most = Math.max(1e-9, ...matrix.owners);
  const size = Math.min(12, cell - 2);
  const bar = width < 620 ? 0 : 54;
  matrix.labels.forEach(({ name }, row) => {
    const y = top + row * cell - look.y + (cell - 1) / 2;
    if (y < top - cell || y > height + cell) return;
    const on = row === look.row;
    context.font = `${on ? "600 " : ""}${size}px ${colours["--sans"]}`;
    context.textAlign = "right";
    context.fillStyle = on ? colours["--ink"] : colours["--ink-2"];
    context.fillText(clipped(context, name, left - 10), left - 8, y);
    const share = matrix.owners[row]!;
    if (share <= 0) return;
    context.fillStyle = colours["--accent"];
    const tall = Math.min(6, cell - 6);
    context.fillRect(right, y - tall / 2, bar * (share / most), tall);
    context.textAlign = "left";
    context.fillStyle = colours["--ink-3"];
    context.fillText(percent(share), right + (bar ? bar * (share / most) + 6 : 0), y);
  });
  context.restore();
  if (matrix.owners.every((share) => share <= 0)) return;
  context.font = `11px ${colours["--sans"]}`;
  context.fillStyle = colours["--ink-3"];
  slanted(context, "owns", right + 8, top - 6);
}

function slanted(context: CanvasRenderingContext2D, text: string, x: number, y: number): void {
  context.save();
  context.translate(x, y);
  context.rotate(-Math.PI / 4);
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillText(text, 0, 0);
  context.restore();
}

function drawColumns(
  context: CanvasRenderingContext2D,
  matrix: Matrix,
  { left, top, right, width, cell }: Layout,
  look: Look,
  colours: Palette,
): void {
  context.save();
  context.beginPath();
  context.rect(left - 14, 0, width, top);
  context.clip();
  const size = Math.min(12, cell - 2);
  matrix.labels.forEach(({ name }, column) => {
    const x = left + column * cell - look.x + (cell - 1) / 2;
    if (x < left || x > right - 10) return;
    const on = column === look.column;
    context.font = `${on ? "600 " : ""}${size}px ${colours["--sans"]}`;
    context.fillStyle = on ? colours["--ink"] : colours["--ink-2"];
    const room = Math.min(top * 1.28, Math.max(30, (width - x) * 1.38));
    slanted(context, clipped(context, name, room), x + 3, top - 6);
  });
  context.restore();
}
