/** The files that the selected job gave, each to be saved. */

import { $, make } from "./dom.js";
import { bytes } from "./words.js";

export class Files {
  #address;
  #shown = "";

  /** `address(jobId, artifactId)`: where one is. */
  constructor(address) {
    this.#address = address;
  }

  /** Those of this job; null: of none. */
  show(job) {
    const files = job?.artifacts ?? [];
    const shown = files.map(({ id }) => id).join();
    if (shown === this.#shown) {
      return; // somebody may be about to press one
    }
    this.#shown = shown;
    $("files").hidden = files.length === 0;
    $("files").replaceChildren(...files.map((file) => this.#button(job.id, file)));
  }

  /** No link, which would show the ticket to whoever looks at the page's source. */
  #button(jobId, { id, name, size, contentType }) {
    const href = this.#address(jobId, id);
    const save = () => make("a", { href, download: "" }).click();
    return make("button", { type: "button", title: contentType, onclick: save }, `${name} (${bytes(size)})`);
  }
}
