/** A small line plot over time, as SVG, so that it takes the page's colours. */

const NS = 'http://www.w3.org/2000/svg';
const WIDTH = 120;
const HEIGHT = 30;

export class Plot {
  #lines;
  #samples = [];
  #length;
  #floor;

  /**
   * @param {{series: string[], label: string, length?: number, floor?: number}} options
   *   `series`: a class for each line; `floor`: the least that the top of the plot stands for
   */
  constructor({ series, label, length = 60, floor = 1 }) {
    this.#length = length;
    this.#floor = floor;
    this.node = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', class: 'plot', role: 'img', 'aria-label': label });
    this.#lines = series.map((name) => {
      const line = svg('polyline', { class: `line ${name}`, points: '' });
      this.node.append(line);
      return line;
    });
  }

  /** Adds one sample: a number, or null for none, per series. */
  push(values) {
    this.#samples.push(values);
    if (this.#samples.length > this.#length) this.#samples.shift();
    const top = Math.max(this.#floor, ...this.#samples.flat().filter((value) => value !== null)) * 1.1;
    this.#lines.forEach((line, series) => {
      const points = this.#samples
        .map((sample, n) => [n + this.#length - this.#samples.length, sample[series]])
        .filter(([, value]) => value !== null && value !== undefined)
        .map(([n, value]) => `${((n * WIDTH) / (this.#length - 1)).toFixed(1)},${(HEIGHT - 1 - (value / top) * (HEIGHT - 2)).toFixed(1)}`);
      line.setAttribute('points', points.join(' '));
    });
  }
}

export function svg(name, attributes) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}
