// Sends an image to the service, and draws what it answers.

const ids = ["model", "about", "stage", "drop", "file", "canvas", "access", "token", "status", "slider", "threshold",
  "value", "list", "download", "techniques", "technique"];
const at = Object.fromEntries(ids.map((id) => [id, document.getElementById(id)]));
const LEAST = 0.05; // lowest threshold of the slider: the service is asked once, and the slider hides
const KEYPOINT = 0.5; // least score of a keypoint that is drawn
const SMALL = 640, LARGE = 8192; // longest side in pixels below which images are enlarged, and most that is drawn

let models = [], image = null, answer = null, maps = {}, latest = 0, explained = null;

const model = () => models[at.model.selectedIndex];
const threshold = () => Number(at.threshold.value);
const detections = () => (answer?.objects ?? []).map((object, index) => ({ ...object, index }))
  .filter((object) => object.score >= threshold());

function say(text, bad = false) {
  at.status.textContent = text;
  at.status.className = bad ? "bad" : "";
}

async function ask(path, options = {}) {
  const headers = at.token.value ? { Authorization: `Bearer ${at.token.value}` } : {};
  const response = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  at.access.hidden = response.status !== 401;
  if (response.headers.get("Content-Type") === "image/png") return createImageBitmap(await response.blob());
  const content = await response.json();
  if (!response.ok) throw new Error(content.detail);
  return content;
}

async function start() {
  try {
    models = await ask("models");
    at.model.replaceChildren(...models.map(({ name }) => new Option(name)));
    choose();
    say("Choose an image to begin.");
  } catch (error) {
    say(error.message, true);
  }
}

function choose() {
  const { predicts, classes, threshold, techniques } = model();
  at.technique.replaceChildren(...Object.entries(techniques).map(([name, title]) => new Option(title, name)));
  at.about.textContent = `predicts ${predicts}, ${classes.length} class${classes.length === 1 ? "" : "es"}`;
  at.slider.hidden = threshold === null;
  at.threshold.min = Math.min(LEAST, threshold ?? LEAST);
  at.threshold.value = threshold ?? 0;
  if (image) predict();
}

async function open(file) {
  if (!file) return;
  const bitmap = await createImageBitmap(file).catch(() => null); // a format that the browser cannot show
  image = { file, bitmap };
  await predict();
}

// The image under the colours of an explanation; once more, the prediction again.
async function explain(key, label, box) {
  if (explained?.key === key) {
    explained = null;
    latest++;
    show();
    return;
  }
  const current = ++latest;
  explained = { key, label, box, drawn: null };
  say(`Explaining ${label} …`);
  try {
    const technique = at.technique.selectedOptions[0];
    const query = new URLSearchParams({ label, technique: technique.value });
    if (box && model().explains_points) {
      const [height, width] = answer.size, inside = (value, side) => Math.min(Math.max(0, Math.floor(value)), side - 1);
      query.set("x", inside((box[0] + box[2]) / 2, width));
      query.set("y", inside((box[1] + box[3]) / 2, height));
    }
    const drawn = await send("explain", query);
    if (current !== latest) return;
    explained.drawn = drawn;
    say(`${technique.text} of ${label}: red pixels count most.`);
  } catch (error) {
    if (current !== latest) return;
    explained = null;
    say(error.message, true);
  }
  show();
}

function send(verb, query) {
  const type = image.file.type.startsWith("image/") ? image.file.type : "application/octet-stream";
  const path = `models/${encodeURIComponent(model().name)}/${verb}?${query}`;
  return ask(path, { method: "POST", body: image.file, headers: { "Content-Type": type } });
}

async function predict() {
  const current = ++latest, began = performance.now(), { threshold } = model();
  explained = null;
  say("Predicting …");
  try {
    const content = await send("predict", threshold === null ? "" : `threshold=${at.threshold.min}`);
    const loaded = {};
    for (const key of ["label_map", "saliency_map"].filter((key) => key in content)) {
      loaded[key] = new Image();
      loaded[key].src = `data:image/png;base64,${content[key]}`;
      await loaded[key].decode();
    }
    if (current !== latest) return; // another image or model was chosen meanwhile
    [answer, maps] = [{ ...content, path: image.file.name }, loaded];
    say(`${image.file.name}: ${answer.size[1]} × ${answer.size[0]} pixels, ${Math.round(performance.now() - began)} ms`);
  } catch (error) {
    if (current !== latest) return;
    [answer, maps] = [null, {}];
    say(error.message, true);
  }
  show();
}

// The runs of a mask in COCO's compressed run-length encoding, of background and object in turn, column by column.
function runs(text) {
  const counts = [];
  for (let place = 0; place < text.length;) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(place++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value |= -1 << shift;
    counts.push(counts.length > 2 ? value + counts[counts.length - 2] : value);
  }
  return counts;
}

function fillMask(pen, { size: [height], counts }) {
  let start = 0;
  runs(counts).forEach((length, turn) => {
    const end = start + length;
    while (turn % 2 && start < end) {
      const rows = Math.min(end - start, height - start % height);
      pen.fillRect(Math.floor(start / height), start % height, 1, rows);
      start += rows;
    }
    start = end;
  });
}

const colourOf = (object) => {
  const { colours, classes } = model();
  return colours[(classes.length === 1 ? object.index : object.label) % colours.length];
};

function draw() {
  const [height, width] = answer?.size ?? [image.bitmap?.height ?? 1, image.bitmap?.width ?? 1];
  const longest = Math.max(height, width);
  const scale = longest > LARGE ? LARGE / longest : Math.ceil(SMALL / longest);
  at.canvas.width = Math.max(1, Math.round(width * scale));
  at.canvas.height = Math.max(1, Math.round(height * scale));
  const pen = at.canvas.getContext("2d"), line = Math.max(2, longest * scale / 350) / scale;
  pen.scale(scale, scale);
  pen.imageSmoothingEnabled = scale < 1;
  pen.fillStyle = "#888";
  pen.fillRect(0, 0, width, height);
  if (explained?.drawn) {
    pen.drawImage(explained.drawn, 0, 0, width, height);
    return;
  }
  if (image.bitmap) pen.drawImage(image.bitmap, 0, 0, width, height);
  if (maps.label_map) {
    pen.globalAlpha = 0.55;
    pen.drawImage(maps.label_map, 0, 0);
  }
  if (maps.saliency_map) {
    pen.globalCompositeOperation = "multiply";
    pen.globalAlpha = 0.8;
    pen.drawImage(maps.saliency_map, 0, 0);
    pen.globalCompositeOperation = "source-over";
  }
  const drawn = detections().reverse(); // the best one on top
  pen.globalAlpha = 0.45;
  for (const object of drawn.filter(({ mask }) => mask)) {
    pen.fillStyle = colourOf(object);
    fillMask(pen, object.mask);
  }
  pen.globalAlpha = 1;
  pen.lineWidth = line;
  pen.textBaseline = "bottom";
  pen.font = `${7 * line}px system-ui, sans-serif`;
  for (const object of drawn) drawObject(pen, object, line, width);
}

function drawObject(pen, object, line, width) {
  const [x1, y1, x2, y2] = object.box, colour = colourOf(object);
  pen.strokeStyle = colour;
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  const points = object.keypoints ?? [], seen = ([, , score]) => score >= KEYPOINT;
  for (const pair of model().keypoints?.skeleton ?? []) {
    const [from, to] = pair.map((index) => points[index]);
    if (!from || !to || !seen(from) || !seen(to)) continue;
    pen.beginPath();
    pen.moveTo(from[0], from[1]);
    pen.lineTo(to[0], to[1]);
    pen.stroke();
  }
  for (const [x, y] of points.filter(seen)) {
    pen.beginPath();
    pen.arc(x, y, 1.6 * line, 0, 2 * Math.PI);
    pen.fillStyle = "#fff";
    pen.fill();
    pen.stroke();
  }
  const text = `${object.class} ${object.score.toFixed(2)}`, high = 9 * line, wide = pen.measureText(text).width + 4 * line;
  const left = Math.max(0, Math.min(x1, width - wide)), bottom = Math.max(high, y1);
  pen.fillStyle = colour;
  pen.fillRect(left, bottom - high, wide, high);
  const light = colour.match(/[0-9a-f]{2}/g).reduce((sum, part, i) => sum + parseInt(part, 16) * [0.3, 0.59, 0.11][i], 0);
  pen.fillStyle = light > 140 ? "#000" : "#fff";
  pen.fillText(text, left + 2 * line, bottom - line);
}

function row(name, text, colour, share, object) {
  const item = document.createElement("li"), parts = ["i", "span", "b"].map((tag) => document.createElement(tag));
  parts[0].style.color = colour ?? "transparent";
  [parts[1].textContent, parts[2].textContent] = [name, text];
  if (share !== undefined) {
    parts.push(document.createElement("meter"));
    parts[3].value = share;
    parts[3].setAttribute("aria-label", `${name} ${text}`);
  }
  if (object && at.technique.length) {
    const button = document.createElement("button"), key = `${object.index ?? name}`;
    button.className = "explain"; // its text is in the style sheet, so that the row says the prediction alone
    button.setAttribute("aria-label", `Explain ${name} ${text}`);
    button.setAttribute("aria-pressed", explained?.key === key);
    button.addEventListener("click", () => explain(key, name, object.box));
    parts.push(button);
  }
  item.append(...parts);
  return item;
}

function rows() {
  const { classes, colours } = model(), percent = (share) => `${(100 * share).toFixed(1)} %`;
  const list = detections().map((object) => row(object.class, object.score.toFixed(3), colourOf(object), undefined, object));
  for (const { class: name, probability } of answer?.classes ?? []) {
    list.push(row(name, percent(probability), null, probability, {}));
  }
  for (const [name, share] of Object.entries(answer?.shares ?? {}).sort((a, b) => b[1] - a[1])) {
    if (share) list.push(row(name, percent(share), colours[classes.indexOf(name)], share, {}));
  }
  if (answer?.salient !== undefined) list.push(row("salient", percent(answer.salient), null, answer.salient));
  for (const key of Object.keys(answer ?? {}).filter((key) => key.startsWith("value"))) {
    list.push(row(key.replace("_", " "), String(answer[key])));
  }
  if (answer?.objects && !list.length) list.push(row("nothing reaches the threshold", ""));
  return list;
}

function show() {
  at.value.textContent = threshold().toFixed(2);
  at.drop.classList.toggle("small", Boolean(image));
  at.canvas.hidden = !image;
  at.download.hidden = !answer;
  at.techniques.hidden = at.technique.length < 2 || !answer;
  at.list.replaceChildren(...rows());
  if (!image) return;
  draw();
  const texts = [...at.list.children].map((item) => item.textContent).slice(0, 20);
  at.canvas.setAttribute("aria-label", `${image.file.name}: ${texts.join(", ") || "no prediction"}`);
}

function save() {
  const kept = answer.objects
    ? { threshold: threshold(), objects: answer.objects.filter(({ score }) => score >= threshold()) }
    : {};
  const text = JSON.stringify({ ...answer, ...kept }, null, 1);
  URL.revokeObjectURL(at.download.href);
  at.download.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  at.download.download = `${answer.path.replace(/\.[^.]*$/, "")}.json`;
}

at.model.addEventListener("change", choose);
at.threshold.addEventListener("input", show);
at.technique.addEventListener("change", () => {
  if (!explained) return;
  const { key, label, box } = explained;
  explained = null;
  explain(key, label, box);
});
at.file.addEventListener("change", () => open(at.file.files[0]));
at.download.addEventListener("click", save);
at.access.addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at.stage.classList.toggle("over", name === "dragover");
    if (name === "drop") open(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => open(event.clipboardData.files[0]));
start();
