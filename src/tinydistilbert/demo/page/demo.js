// The models of models.json side by side. Whatever comes from a model or from the user is put into the page as text.
const byId = (id) => document.getElementById(id);
const settings = await (await fetch("models.json")).json();
const library = new URL(settings.library, location.href).href;
const models = [];
let isBusy = false;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function softmax(values) {
  const largest = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - largest));
  const total = powers.reduce((sum, value) => sum + value, 0);
  return powers.map((value) => value / total);
}

const sigmoid = (value) => 1 / (1 + Math.exp(-value));

// [start, end) of each token of a text in its characters, by the pieces of its words; null where that cannot be known.
function places(tokenizer, text, count) {
  const found = [];
  for (const word of text.matchAll(/[\p{L}\p{N}\p{M}]+|[^\s\p{L}\p{N}\p{M}]/gu)) {
    const pieces = tokenizer.tokenize(word[0]).map((piece) => piece.replace(/^(##|\u0120|\u2581)/, "").length);
    const isExact = pieces.reduce((sum, length) => sum + length, 0) === word[0].length;
    let start = word.index;
    for (const length of pieces) {
      found.push(isExact ? [start, start + length] : [word.index, word.index + word[0].length]);
      start += length;
    }
  }
  return found.length === count ? found : null;
}

function row(tensor, index = 0) {
  const width = tensor.dims[tensor.dims.length - 1];
  return Array.from(tensor.data.slice(index * width, (index + 1) * width), Number);
}

async function answerOf(one, text, pair) {
  const begun = performance.now();
  const given = { truncation: true, max_length: one.facts.max_length };
  if (pair !== null) given.text_pair = pair;
  const inputs = await one.tokenizer(text, given);
  const outputs = await one.model(inputs);
  const milliseconds = performance.now() - begun;
  return { inputs, outputs, milliseconds };
}

function bars(scores, given) {
  const list = element("ul");
  scores.forEach(([label, score], index) => {
    const item = element("li");
    const bar = element("progress");
    bar.max = 1;
    bar.value = score;
    bar.setAttribute("aria-label", `${label}: ${percent(score)}`);
    item.append(element("span", label), bar, element("span", percent(score), "number"));
    if (given ? given(label, index) : index === 0) item.classList.add("given");
    list.append(item);
  });
  return list;
}

function showClasses(box, facts, outputs) {
  const logits = row(outputs.logits);
  if (facts.kind === "regression") {
    box.append(element("p", logits[0].toFixed(3), "answer"));
    return;
  }
  const several = facts.kind === "multi-label";
  const scores = (several ? logits.map(sigmoid) : softmax(logits)).map((score, i) => [facts.labels[i], score, i]);
  scores.sort((a, b) => b[1] - a[1]);
  const limits = new Map(facts.labels.map((label, i) => [label, facts.label_thresholds?.[i] ?? 0.5]));
  const chosen = several ? scores.filter(([label, score]) => score >= limits.get(label)) : scores.slice(0, 1);
  box.append(element("p", chosen.map(([label]) => label).join(", ") || "(no label)", "answer"));
  if (facts.defer_below !== null && !several && scores[0][1] < facts.defer_below) {
    box.append(element("p", "Below the confidence at which it answers as its teacher.", "facts"));
  }
  const names = new Set(chosen.map(([label]) => label));
  box.append(bars(scores, (label) => names.has(label)));
}

function marked(text, pieces) {
  const shown = element("p", undefined, "context");
  let last = 0;
  for (const [start, end, kind] of pieces) {
    shown.append(text.slice(last, start));
    const part = element("mark", text.slice(start, end));
    if (kind) part.append(element("span", kind, "kind"));
    shown.append(part);
    last = end;
  }
  shown.append(text.slice(last));
  return shown;
}

function showSpan(box, one, { inputs, outputs }, question, context) {
  const starts = row(outputs.start_logits);
  const ends = row(outputs.end_logits);
  const ids = Array.from(inputs.input_ids.data, Number);
  const specials = ids.map((id) => one.special.has(id));
  const first = one.tokenizer.tokenize(question).length;
  let begin = 0;
  for (let seen = 0; begin < ids.length && seen < first; begin++) if (!specials[begin]) seen++;
  while (begin < ids.length && specials[begin]) begin++;
  let stop = ids.length;
  while (stop > begin && specials[stop - 1]) stop--;
  let best = { score: -Infinity, start: begin, end: begin };
  for (let s = begin; s < stop; s++) {
    for (let e = s; e < Math.min(stop, s + 30); e++) {
      if (starts[s] + ends[e] > best.score) best = { score: starts[s] + ends[e], start: s, end: e };
    }
  }
  const limit = one.facts.null_threshold;
  if (limit !== null && starts[0] + ends[0] - best.score > limit) {
    box.append(element("p", "(no answer)", "answer"), marked(context, []));
    return;
  }
  const of = (values) => softmax(values.slice(begin, stop));
  const score = of(starts)[best.start - begin] * of(ends)[best.end - begin];
  const all = one.tokenizer.tokenize(context).length;
  const offsets = places(one.tokenizer, context, all);
  const read = one.tokenizer.decode(ids.slice(best.start, best.end + 1), { skip_special_tokens: true });
  let place = offsets ? [offsets[best.start - begin]?.[0], offsets[best.end - begin]?.[1]] : null;
  if (!place || place[0] === undefined || place[1] === undefined) {
    const at = context.toLowerCase().indexOf(read.toLowerCase());
    place = at >= 0 ? [at, at + read.length] : null;
  }
  box.append(element("p", place ? context.slice(...place) : read, "answer"));
  box.append(bars([["probability", score]]), marked(context, place ? [place] : []));
  if (all > stop - begin) box.append(element("p", `Read: ${stop - begin} of ${all} tokens of the context.`, "facts"));
}

// [start, end, kind] of each entity, from [start, end, tag] of each word, by the rules of tasks/entities.py.
function entitiesOf(words) {
  const entities = [];
  let before = "O";
  for (const [start, end, tag] of words) {
    const isNew = before === "O" || "BSUW".includes(tag[0]) || "ELSUW".includes(before[0])
      || tag.slice(2) !== before.slice(2);
    if (tag !== "O" && isNew) entities.push([start, end, tag.slice(2)]);
    else if (tag !== "O") entities[entities.length - 1][1] = end;
    before = tag;
  }
  return entities;
}

function showEntities(box, one, { inputs, outputs }, text) {
  const ids = Array.from(inputs.input_ids.data, Number);
  const offsets = places(one.tokenizer, text, one.tokenizer.tokenize(text).length);
  if (!offsets) {
    box.append(element("p", "The words of this text cannot be found from its tokens.", "facts"));
    return;
  }
  const words = [];
  let token = 0;
  let last = -1;
  ids.forEach((id, index) => {
    if (one.special.has(id)) return;
    const [start, end] = offsets[token++] ?? [0, 0];
    const isWithin = start > 0 && /^[\p{L}\p{N}\p{M}]{2}$/u.test(text.slice(start - 1, start + 1));
    const isRest = start === last || isWithin; // the first piece of a word has its tag
    last = start;
    if (isRest) {
      if (words.length && words[words.length - 1][1] === start) words[words.length - 1][1] = end;
      return;
    }
    const logits = row(outputs.logits, index);
    words.push([start, end, one.facts.labels[logits.indexOf(Math.max(...logits))]]);
  });
  const pieces = entitiesOf(words);
  if (!pieces.length) box.append(element("p", "(no entity)", "answer"));
  box.append(marked(text, pieces));
}

async function show(one, text, pair) {
  one.box.replaceChildren();
  const found = await answerOf(one, text, pair);
  if (one.facts.kind === "span") showSpan(one.box, one, found, text, pair);
  else if (one.facts.kind === "token-classification") showEntities(one.box, one, found, text);
  else showClasses(one.box, one.facts, found.outputs);
  one.box.append(element("p", `${found.milliseconds.toFixed(1)} ms`, "facts milliseconds"));
}

async function ask(event) {
  event.preventDefault();
  if (isBusy) return;
  isBusy = true;
  byId("ask").disabled = true;
  byId("status").textContent = "The models are answering …";
  const pair = byId("second").hidden ? null : byId("pair").value;
  for (const one of models) {
    try {
      await show(one, byId("text").value, settings.texts === 2 || pair ? pair : null);
    } catch (error) {
      one.box.replaceChildren(element("p", `No answer: ${error.message}`, "error"));
    }
  }
  byId("status").textContent = "Answered.";
  byId("ask").disabled = isBusy = false;
}

function prepare() {
  const isSpan = settings.kind === "span";
  if (isSpan) {
    byId("text-label").textContent = "Question";
    byId("pair-label").textContent = "Context";
  }
  byId("second").hidden = settings.texts === 1;
  byId("pair").required = settings.texts === 2;
  byId("choice").hidden = settings.examples.length === 0;
  settings.examples.forEach(([text], index) => {
    const option = element("option", text.length > 80 ? `${text.slice(0, 80)} …` : text);
    option.value = index;
    byId("examples").append(option);
  });
  byId("examples").addEventListener("change", (event) => {
    const [text, pair] = settings.examples[event.target.value] ?? ["", ""];
    byId("text").value = text;
    byId("pair").value = pair ?? "";
  });
  byId("form").addEventListener("submit", ask);
}

async function load(library) {
  const { env, AutoTokenizer, ...heads } = library;
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = "models/"; // with a whole address the library would look for it at the hub
  env.useBrowserCache = env.useWasmCache = false;
  const wasm = env.backends.onnx.wasm;
  wasm.numThreads = 1;
  wasm.wasmPaths = Object.fromEntries(Object.entries(settings.wasm).map(([k, v]) => [k, new URL(v, location.href).href]));
  const classes = {
    span: heads.AutoModelForQuestionAnswering, "token-classification": heads.AutoModelForTokenClassification,
  };
  for (const facts of settings.models) {
    const card = element("article");
    const heading = element("h2", facts.name);
    heading.id = `name-${facts.folder}`;
    card.setAttribute("aria-labelledby", heading.id);
    const box = element("div");
    card.append(heading, element("p", `${facts.precision}, ${(facts.bytes / 1e6).toFixed(1)} MB`, "facts"), box);
    byId("models").append(card);
    try {
      const tokenizer = await AutoTokenizer.from_pretrained(facts.folder);
      const head = classes[facts.kind] ?? heads.AutoModelForSequenceClassification;
      const model = await head.from_pretrained(facts.folder, {
        dtype: facts.dtype, device: "wasm", use_external_data_format: facts.external,
      });
      const special = new Set(Array.from((await tokenizer("")).input_ids.data, Number)); // [CLS] and [SEP]
      const one = { facts, tokenizer, model, box, special };
      await answerOf(one, "a", facts.kind === "span" ? "a" : null); // the first answer of a model takes longer
      models.push(one);
    } catch (error) {
      box.append(element("p", `It could not be loaded: ${error.message}`, "error"));
    }
  }
}

prepare();
try {
  await load(await import(library));
  byId("ask").disabled = models.length === 0;
  byId("status").textContent = models.length ? "Ready." : "No model could be loaded.";
} catch (error) {
  byId("status").textContent = `transformers.js could not be loaded: ${error.message}`;
}
