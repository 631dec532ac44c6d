// The files that a question is about: dropped, pasted, chosen or photographed, in the order of the request.

const DOCUMENT = /^(application\/pdf|image\/tiff)$/;

/** A picture, or a document that only the server can draw. */
class ChosenFile {
  constructor(blob, name) {
    this.blob = blob;
    this.name = name;
    this.type = blob.type || (/\.pdf$/i.test(name) ? "application/pdf" : "application/octet-stream");
    this.isDocument = DOCUMENT.test(this.type);
    this.address = URL.createObjectURL(new Blob([blob], { type: this.type }));
    this.width = this.height = 0; // pixels as shown, turned as EXIF says; 0: this browser cannot show it
    this.url64 = ""; // data URL, once it has been asked for
  }

  /** Find the size. */
  async measure() {
    if (this.isDocument) return;
    const image = new Image();
    image.src = this.address;
    try {
      await image.decode();
      [this.width, this.height] = [image.naturalWidth, image.naturalHeight];
    } catch {
      // the server may know the format all the same
    }
  }

  async dataUrl() {
    this.url64 ||= await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result.replace(/^data:[^;,]*/, `data:${this.type}`));
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(this.blob);
    });
    return this.url64;
  }
}

/** The files at hand. `change` is dispatched when they, which one is shown, or whether some are still to come has changed. */
export class Pictures extends EventTarget {
  files = [];
  shown = 0; // place of the one that is looked at
  coming = 0; // additions that are not done: no question is to be asked without them

  get current() {
    return this.files[this.shown] ?? null;
  }

  async add(blobs) {
    const added = [...blobs].map((blob) => new ChosenFile(blob, blob.name ?? "picture"));
    if (!added.length) return;
    await this.waitFor(Promise.all(added.map((file) => file.measure())));
    this.replace([...this.files, ...added], this.files.length);
  }

  /** What a promise gives; files come with it. */
  async waitFor(promise) {
    this.coming += 1;
    this.dispatchEvent(new Event("change"));
    try {
      return await promise;
    } finally {
      this.coming -= 1;
      this.dispatchEvent(new Event("change"));
    }
  }

  remove(place) {
    this.replace(this.files.filter((_, other) => other !== place), this.shown - (place < this.shown ? 1 : 0));
  }

  replace(files, shown = 0) {
    this.files = files;
    this.show(Math.max(0, Math.min(shown, files.length - 1)));
  }

  show(place) {
    this.shown = place;
    this.dispatchEvent(new Event("change"));
  }
}

/** Have files that are dropped on the page or pasted into it added. */
export function takeFromAnywhere(pictures) {
  const body = document.body;
  let depth = 0; // `dragleave` comes for each element inside too
  const isFile = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    body.classList.toggle("dropping", depth > 0);
  };
  addEventListener("dragenter", (event) => isFile(event) && mark(1));
  addEventListener("dragleave", (event) => isFile(event) && mark(-1));
  addEventListener("dragover", (event) => isFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    mark(-depth);
    pictures.add(event.dataTransfer.files);
  });
  addEventListener("paste", ({ clipboardData }) => pictures.add(clipboardData?.files ?? []));
}
