// Pictures as people bring them: dropped, pasted, picked, or in folders.

const PICTURE = /\.(jpe?g|png|webp|bmp)$/i;

export function isPicture(file) {
  return PICTURE.test(file.name) || /^image\/(jpeg|png|webp|bmp)$/.test(file.type);
}

// The folder a file lies in names its identity; null for one that came alone.
function chosen(file, folder) {
  return { file, folder: folder ?? file.webkitRelativePath?.split("/").at(-2) ?? null };
}

async function inside(entry, folder) {
  if (entry.isFile) return [chosen(await new Promise((good, bad) => entry.file(good, bad)), folder)];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((good, bad) => reader.readEntries(good, bad)); // a hundred at a time
    if (!some.length) return found;
    for (const one of some) found.push(...(await inside(one, entry.name)));
  }
}

async function dropped(transfer) {
  // What stands in the transfer is gone after the first wait.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => chosen(file, null));
  return (await Promise.all(entries.map((entry) => inside(entry, null)))).flat();
}

// onFiles gets [{ file, folder }].
export function dropZone(zone, inputs, onFiles) {
  let depth = 0; // a child's dragenter comes before its parent's dragleave
  const mark = (by) => {
    depth = by === 0 ? 0 : depth + by;
    zone.classList.toggle("over", depth > 0);
  };
  zone.addEventListener("dragenter", () => mark(1));
  zone.addEventListener("dragleave", () => mark(-1));
  zone.addEventListener("dragover", (event) => event.preventDefault());
  zone.addEventListener("drop", async (event) => {
    event.preventDefault();
    mark(0);
    onFiles(await dropped(event.dataTransfer));
  });
  for (const input of inputs) {
    input.addEventListener("change", () => {
      const files = [...input.files].map((file) => chosen(file));
      input.value = ""; // the same file again is a change again
      if (files.length) onFiles(files);
    });
  }
}

// Pictures pasted anywhere in the page while isWanted() says so.
export function pasteZone(isWanted, onFiles) {
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])].map((file) => chosen(file, null));
    if (!files.length || !isWanted()) return;
    event.preventDefault();
    onFiles(files);
  });
}
