// Numbers 0, 1, … below a count.

export function range(count) {
  return Array.from({ length: count }, (_, i) => i);
}
