#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// A stand-in for vLLM, SGLang and TGI, as far as what is documented of their HTTP faces goes: it is told
// its port, its model's name and its key the way each of them is, refuses requests without the key and for
// another name, and says how busy it is in /metrics. POST /fake/load {running, waiting, used} sets that;
// GET /fake/start tells what it was started with. SIGTERM ends it.
import fs from 'node:fs';
import http from 'node:http';
import process from 'node:process';

const argv = process.argv.slice(2);
const value = (...names) => {
  for (const name of names) {
    const i = argv.indexOf(name);
    if (i >= 0) return argv[i + 1];
  }
  return undefined;
};
const fromConfig = (file) => /^api-key: (\S+)$/m.exec(fs.readFileSync(file, 'utf8'))[1];
const config = value('--config');
const key = config ? fromConfig(config) : (process.env.VLLM_API_KEY ?? process.env.API_KEY);
const name = value('--served-model-name');
const kind = value('--model-id') ? 'tgi' : value('--model-path') ? 'sglang' : 'vllm';
const load = { running: 0, waiting: 0, used: 0 };
let served = 0;

const metrics = {
  vllm: () => `# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="${name}"} ${load.running}.0
vllm:num_requests_waiting{engine="0",model_name="${name}"} ${load.waiting}.0
vllm:kv_cache_usage_perc{engine="0",model_name="${name}"} ${load.used}
`,
  sglang: () => `sglang:num_running_reqs{model_name="${name}"} ${load.running}
sglang:num_queue_reqs{model_name="${name}"} ${load.waiting}
sglang:token_usage{model_name="${name}"} ${load.used}
`,
  tgi: () => `tgi_batch_current_size ${load.running}\ntgi_queue_size ${load.waiting}\n`,
};

function answer(res, status, body) {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  res.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
  res.end(text);
}

function chat(req, res, body) {
  if (key && req.headers.authorization !== `Bearer ${key}`)
    return answer(res, 401, { error: 'Unauthorized' });
  const asked = JSON.parse(body);
  if (name && asked.model !== name)
    return answer(res, 404, { error: { message: `The model \`${asked.model}\` does not exist.` } });
  served++;
  return answer(res, 200, {
    id: 'x',
    object: 'chat.completion',
    created: 1,
    model: asked.model,
    choices: [{ index: 0, message: { role: 'assistant', content: `from ${kind}` }, finish_reason: 'stop' }],
    usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
  });
}

const server = http.createServer((req, res) => {
  let body = '';
  req.on('data', (d) => (body += d));
  req.on('end', () => {
    const { pathname } = new URL(req.url, 'http://x');
    if (pathname === '/health') return answer(res, 200, '');
    if (pathname === '/metrics') return answer(res, 200, metrics[kind]());
    if (['/version', '/info', '/server_info'].includes(pathname))
      return answer(res, 200, { version: '9.8.7' });
    if (pathname === '/v1/models') return answer(res, 200, { data: [{ id: name ?? 'm', object: 'model' }] });
    if (pathname === '/v1/chat/completions') return chat(req, res, body);
    if (pathname === '/fake/start') return answer(res, 200, { argv, key, served });
    if (pathname === '/fake/load') return answer(res, 200, Object.assign(load, JSON.parse(body)));
    return answer(res, 404, { error: 'Not Found' });
  });
});
server.keepAliveTimeout = 5000;
server.listen(Number(value('--port')), value('--host', '--hostname'), () => console.log('listening'));
process.on('SIGTERM', () => process.exit(0));
