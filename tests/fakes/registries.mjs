// SPDX-License-Identifier: Apache-2.0
//
// More places models come from, as routes of the fake hub (hub.mjs):
//
//   startHub({ routes: registryRoutes, registry: {…}, s3: {…} })
//
// config.registry['library/m']: { tags: {TAG: [LAYER]}, token, login, index } is served by the distribution
//   protocol, /v2/library/m/manifests/TAG and /v2/library/m/blobs/sha256:…. LAYER: {type, title, spec},
//   spec a file as hub.mjs has it, or {digest} that lies. token: asked for by the Bearer dance at /token,
//   which wants login ("user:password") where there is one. index: manifests are behind an index.
// config.s3: { buckets: {NAME: {KEY: spec}}, id, secret, session } wants a valid signature (SigV4 in the
//   query) for /NAME/KEY when id is there.

import crypto from 'node:crypto';
import { answer, digestOf, serveFile, sizeOf } from './hub.mjs';

const sha256 = (text) => crypto.createHash('sha256').update(text).digest('hex');

// ---- registries -------------------------------------------------------------------------------------------

/** The manifest of a tag, as text. */
export function manifestOf(layers) {
  return JSON.stringify({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: `sha256:${sha256('{}')}`, size: 2 },
    layers: layers.map(({ type, title, spec, digest }) => ({
      mediaType: type ?? 'application/octet-stream',
      digest: `sha256:${digest ?? digestOf(spec)}`,
      size: spec ? sizeOf(spec) : 4,
      ...(title !== undefined && { annotations: { 'org.opencontainers.image.title': title } }),
    })),
  });
}

function tokenRoute(req, res, hub) {
  if (req.path !== '/token') return false;
  const scope = new URL(req.url, hub.url).searchParams.get('scope') ?? '';
  const repo = hub.config.registry?.[scope.split(':')[1]];
  const basic = repo?.login && `Basic ${Buffer.from(repo.login).toString('base64')}`;
  if (!repo || (basic && req.headers.authorization !== basic)) return answer(res, 401, {}, { errors: [] });
  return answer(res, 200, {}, { token: repo.token });
}

function challenged(req, res, hub, name, repo) {
  if (!repo.token || req.headers.authorization === `Bearer ${repo.token}`) return false;
  const scope = `repository:${name}:pull`;
  const challenge = `Bearer realm="${hub.url}/token",service="fake registry",scope="${scope}"`;
  return answer(res, 401, { 'WWW-Authenticate': challenge }, { errors: [{ code: 'UNAUTHORIZED' }] });
}

function manifestAnswer(res, repo, reference) {
  const index = (text) =>
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
      manifests: [{ digest: `sha256:${sha256(text)}`, size: text.length }],
    });
  for (const [tag, layers] of Object.entries(repo.tags)) {
    const text = manifestOf(layers);
    const byDigest = reference === `sha256:${sha256(text)}`;
    if (byDigest) return answer(res, 200, {}, repo.lies ? `${text} ` : text);
    const byIndex = repo.index && reference === `sha256:${sha256(index(text))}`;
    if (tag === reference || byIndex) return answer(res, 200, {}, repo.index ? index(text) : text);
  }
  return answer(res, 404, {}, { errors: [{ code: 'MANIFEST_UNKNOWN' }] });
}

function registryRoute(req, res, hub) {
  const m = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(req.path);
  if (!m) return false;
  const [, name, what, reference] = m;
  const repo = hub.config.registry?.[name];
  if (!repo) return answer(res, 404, {}, { errors: [{ code: 'NAME_UNKNOWN' }] });
  if (challenged(req, res, hub, name, repo)) return true;
  if (what === 'manifests') return manifestAnswer(res, repo, reference);
  const layers = Object.values(repo.tags).flat();
  const layer = layers.find(({ spec, digest }) => `sha256:${digest ?? digestOf(spec)}` === reference);
  if (!layer?.spec) return answer(res, 404, {}, { errors: [{ code: 'BLOB_UNKNOWN' }] });
  const where = `/${name}/${reference}`;
  hub.cdnFiles[where] = layer.spec;
  serveFile(hub, req, res, { ...layer.spec, redirect: 'cdn' }, where);
  return true;
}

// ---- s3 ---------------------------------------------------------------------------------------------------

const hmac = (key, text) => crypto.createHmac('sha256', key).update(text).digest();
const hex = (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`;
const escape = (text) => encodeURIComponent(text).replace(/[!'()*]/g, hex);

/** Whether the query of a URL is a valid signature of it. */
function isSigned(req, s3) {
  const url = new URL(req.url, 'http://x');
  const query = [...url.searchParams].filter(([key]) => key !== 'X-Amz-Signature');
  const get = (key) => url.searchParams.get(key) ?? '';
  const [id, day, region] = get('X-Amz-Credential').split('/');
  if (id !== s3.id || get('X-Amz-Security-Token') !== (s3.session ?? '')) return false;
  const canonical = query.map(([k, v]) => `${escape(k)}=${escape(v)}`).sort().join('&');
  const lines = ['GET', url.pathname, canonical, `host:${req.headers.host}`, '', 'host', 'UNSIGNED-PAYLOAD'];
  const scope = `${day}/${region}/s3/aws4_request`;
  const toSign = ['AWS4-HMAC-SHA256', get('X-Amz-Date'), scope, sha256(lines.join('\n'))].join('\n');
  const key = [day, region, 's3', 'aws4_request'].reduce(hmac, `AWS4${s3.secret}`);
  return hmac(key, toSign).toString('hex') === get('X-Amz-Signature');
}

function s3Route(req, res, hub) {
  const { s3 } = hub.config;
  const [, bucket, key] = /^\/([^/]+)\/(.+)$/.exec(req.path) ?? [];
  if (!s3?.buckets[bucket]) return false;
  if (s3.id && !isSigned(req, s3)) return answer(res, 403, {}, '<Code>SignatureDoesNotMatch</Code>');
  const spec = s3.buckets[bucket][key];
  if (!spec) return answer(res, 404, {}, '<Code>NoSuchKey</Code>');
  serveFile(hub, req, res, spec, `/${bucket}/${key}`);
  return true;
}

export const registryRoutes = [tokenRoute, registryRoute, s3Route];
