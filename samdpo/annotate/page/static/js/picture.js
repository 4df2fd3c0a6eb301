// Pixels of 16 bits and the window through which they are seen.

const HIGHEST = 65535;
const NARROWEST = 0.02; // of the whole range
const WIDEST = 2;

/** The whole range of the image: black at 0, white at 1. */
export const WHOLE_RANGE = Object.freeze({ centre: 0.5, width: 1 });

export function clampWindow({ centre, width }) {
  return {
    centre: Math.min(Math.max(centre, 0), 1),
    width: Math.min(Math.max(width, NARROWEST), WIDEST),
  };
}

/**
 * An image that is drawn through a window; the drawing is kept until the window changes.
 *
 * Slices are squares for the network; a picture has the body's proportions again. Its unit of length is the height of a
 * pixel: it is `rows` units high and `stretch` times `columns` wide.
 */
export class Picture {
  /** @param {ArrayBuffer} bytes (height, width, channels) uint16, little endian; 1 channel or 3 */
  constructor({ height, width, channels, aspect }, bytes) {
    this.rows = height;
    this.columns = width;
    this.channels = channels;
    this.stretch = (aspect * height) / width;
    this.values = readLittleEndian(bytes);
    this.canvas = document.createElement("canvas");
    [this.canvas.width, this.canvas.height] = [width, height];
    this.drawnWith = null;
  }

  get size() {
    return { width: this.columns * this.stretch, height: this.rows };
  }

  /** A canvas of rows x columns pixels. */
  through(window) {
    if (this.drawnWith?.centre === window.centre && this.drawnWith?.width === window.width) return this.canvas;
    const table = lookupTable(window);
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(this.columns, this.rows);
    const [green, blue] = this.channels === 3 ? [1, 2] : [0, 0];
    for (let pixel = 0, from = 0; pixel < image.data.length; pixel += 4, from += this.channels) {
      image.data[pixel] = table[this.values[from] >> 4];
      image.data[pixel + 1] = table[this.values[from + green] >> 4];
      image.data[pixel + 2] = table[this.values[from + blue] >> 4];
      image.data[pixel + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    this.drawnWith = window;
    return this.canvas;
  }
}

// 4096 grey levels: sixteen for each one the screen shows, still smooth at the narrowest windows in use.
function lookupTable({ centre, width }) {
  const table = new Uint8ClampedArray(4096);
  const low = centre - width / 2;
  for (let i = 0; i < table.length; i += 1) table[i] = (255 * (((i << 4) + 8) / HIGHEST - low)) / width;
  return table;
}

function readLittleEndian(bytes) {
  const view = new DataView(bytes);
  return Uint16Array.from({ length: bytes.byteLength / 2 }, (_, i) => view.getUint16(2 * i, true));
}
