// BullMQ (https://docs.bullmq.io) under the workloads of axum-taskflow-bench: `node main.js WORKLOAD TASKS URL` prints
// the figures as JSON. Its best documented setting: one worker with a concurrency of 64 in the process that adds,
// finished jobs kept (as ours are), no events listened to.
import { Queue, Worker } from 'bullmq';

const [workload, tasks, url] = process.argv.slice(2);
const n = Number(tasks);
const { hostname: host, port } = new URL(url);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };
const PRODUCERS = 64;
const data = 'a'.repeat(38);
const day = 24 * 3_600 * 1_000;

const ms = () => performance.now();
const rate = (name, n, begun) => ({ name, unit: 'tasks/s', value: (n / (ms() - begun)) * 1_000 });
const producers = (queue, options) =>
  Promise.all(Array.from({ length: PRODUCERS }, async () => {
    for (let i = 0; i < Math.floor(n / PRODUCERS); i += 1) await queue.add('noop', data, options);
  }));

async function w1() {
  const figures = [];
  const later = { delay: day };
  const one = new Queue('one', { connection });
  await one.waitUntilReady();
  const few = Math.floor(n / 5);
  let begun = ms();
  for (let i = 0; i < few; i += 1) await one.add('noop', data, later);
  figures.push(rate('one producer', few, begun));
  const many = new Queue('many', { connection });
  begun = ms();
  await producers(many, later);
  figures.push(rate('64 producers', Math.floor(n / PRODUCERS) * PRODUCERS, begun));
  const bulk = new Queue('bulk', { connection });
  begun = ms();
  for (let i = 0; i < Math.floor(n / 1_000); i += 1) {
    await bulk.addBulk(Array.from({ length: 1_000 }, () => ({ name: 'noop', data, opts: later })));
  }
  figures.push(rate('bulk of 1,000', Math.floor(n / 1_000) * 1_000, begun));
  return figures;
}

async function w2() {
  const queue = new Queue('tasks', { connection });
  const worker = new Worker('tasks', async () => {}, { connection, concurrency: PRODUCERS });
  await worker.waitUntilReady();
  const watches = new Queue('tasks', { connection }); // a connection of its own
  await watches.waitUntilReady();
  const begun = ms();
  await producers(queue, {});
  const wanted = Math.floor(n / PRODUCERS) * PRODUCERS;
  while ((await watches.getCompletedCount()) < wanted) await new Promise((done) => setTimeout(done, 10));
  return [rate('end to end', wanted, begun)];
}

async function w3() {
  const queue = new Queue('tasks', { connection });
  let began;
  const worker = new Worker('tasks', async () => began(ms()), { connection, concurrency: PRODUCERS });
  await worker.waitUntilReady();
  const all = [];
  for (let i = 0; i < 500; i += 1) {
    await new Promise((done) => setTimeout(done, 10));
    const first = new Promise((done) => { began = done; });
    const before = ms();
    await queue.add('noop', data);
    all.push((await first) - before);
  }
  all.sort((a, b) => a - b);
  const figure = (name, at) => ({ name, unit: 'ms', value: all[at] });
  return [figure('pickup p50', 249), figure('pickup p99', 494), figure('pickup max', 499)];
}

const measure = { w1, w2, w3 }[workload];
if (!measure) throw new Error(`${workload} is not measured here`);
console.log(JSON.stringify(await measure()));
process.exit(0);
