/** Photos that are larger than the server takes, made smaller before they are sent. */

const LIMIT = 10_000_000;
const SIDES = [2400, 1600, 1000];

/**
 * The photo itself where it is small enough, else a JPEG of it of fewer pixels, upright.
 *
 * Throws an Error where this browser cannot read it.
 */
export async function shrunk(photo, limit = LIMIT) {
  if (photo.size <= limit) return photo;
  const bitmap = await createImageBitmap(photo);
  const canvas = document.createElement("canvas");
  for (const side of SIDES) {
    const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff"; // JPEG has no transparency: what lies behind is paper
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const small = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
    if (small && small.size <= limit) return small;
  }
  throw new Error("no smaller copy fits");
}
