// What transformers.js answers with an exported folder, as it lies there: `node predict.mjs INSTALLED < request.json`.
//
// INSTALLED is a folder in which `npm install @huggingface/transformers` was run (with `--ignore-scripts` where only
// the package registry can be reached: the script of onnxruntime-node fetches what only GPUs need).
// The request is {"folder": …, "task": …, "inputs": […]}, each of the inputs a list of what the pipeline is called with.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";

const require = createRequire(resolve(process.argv[2], "anything.js"));
const { env, pipeline } = require("@huggingface/transformers");
const request = JSON.parse(readFileSync(0, "utf8"));

env.allowRemoteModels = false;
env.localModelPath = dirname(request.folder);
const model = await pipeline(request.task, basename(request.folder));
const answers = [];
for (const input of request.inputs) answers.push(await model(...input));
console.log(JSON.stringify(answers));
