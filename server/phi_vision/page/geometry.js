// Sizes and tokens of pictures: the arithmetic of `model/geometry.py` and `model/crops.py`, number for number.

export const CROP_PX = 336;
const CROP_TOKENS = 144;
const ROWS_PER_CROP = 12;

/** Tokens of a canvas of so many crops: the crops, the global view, and a separator after each row of tokens. */
export function canvasTokens(rows, columns) {
  return (rows * columns + 1) * CROP_TOKENS + 1 + (rows + 1) * ROWS_PER_CROP;
}

/** Tokens of a picture of the costliest shape, a tall one. */
export const mostTokens = (numCrops) => canvasTokens(numCrops, 1);

/** How a picture lies on at most `numCrops` crops. All sizes in pixels but `rows` and `columns` (crops). */
export function cropGrid(width, height, numCrops) {
  const [long, short] = [Math.max(width, height), Math.min(width, height)];
  const ratio = long / short;
  let along = 1;
  while ((along + 1) * Math.ceil((along + 1) / ratio) <= numCrops) along++;
  const longPx = along * CROP_PX;
  const shortPx = Math.max(1, Math.trunc(longPx / ratio));
  const across = Math.ceil(shortPx / CROP_PX);
  const before = Math.trunc((across * CROP_PX - shortPx) / 2);
  const [rows, columns] = width >= height ? [across, along] : [along, across];
  return {
    rows,
    columns,
    resizedWidth: width >= height ? longPx : shortPx,
    resizedHeight: width >= height ? shortPx : longPx,
    left: width >= height ? 0 : before,
    top: width >= height ? before : 0,
    tokens: canvasTokens(rows, columns),
  };
}

/** The fewest crops, up to `limit`, that show every pixel that the picture has. */
export function nativeNumCrops(width, height, limit) {
  let best = 1;
  for (let numCrops = 2; numCrops <= limit; numCrops++) {
    const grid = cropGrid(width, height, numCrops);
    if (grid.resizedWidth > width || grid.resizedHeight > height) break;
    const known = cropGrid(width, height, best);
    if (grid.rows !== known.rows || grid.columns !== known.columns) best = numCrops;
  }
  return best;
}

/**
 * Crops that the server gives a picture at most.
 * @param server what `/v1/tasks` says of it.
 * @param numPictures of the whole request.
 * @param chosen by the user; null: the server's own choice.
 */
export function numCrops({ width, height }, server, numPictures, chosen) {
  if (chosen != null) return chosen;
  const most = defaultNumCrops(server, numPictures);
  return server.adaptive_crops ? nativeNumCrops(width, height, most) : most;
}

export function defaultNumCrops(server, numPictures) {
  return numPictures === 1 ? server.num_crops : server.num_crops_multi;
}
