// SPDX-License-Identifier: Apache-2.0
//
// Archives made for a test, with all that nobody should put into one.

import { execFileSync } from 'node:child_process';

const script = `
import io, json, sys, tarfile, zipfile
path, members = sys.argv[1], json.loads(sys.argv[2])
kinds = {'file': tarfile.REGTYPE, 'copy': tarfile.REGTYPE, 'dir': tarfile.DIRTYPE, 'link': tarfile.SYMTYPE,
         'hard': tarfile.LNKTYPE, 'fifo': tarfile.FIFOTYPE, 'char': tarfile.CHRTYPE}
def bytes_of(kind, data):
    return open(data, 'rb').read() if kind == 'copy' else data.encode()
if path.endswith('.zip'):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, kind, data, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode | (0o120000 if kind == 'link' else 0o100000)) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            z.writestr(info, bytes_of(kind, data))
    sys.exit()
with tarfile.open(path, 'w:' + path.rsplit('.', 1)[1].replace('tar', '')) as t:
    for name, kind, data, mode in members:
        info = tarfile.TarInfo(name)
        info.type, info.mode = kinds[kind], mode
        if kind in ('link', 'hard'):
            info.linkname = data
        inside = bytes_of(kind, data) if kind in ('file', 'copy') else b''
        info.size = len(inside)
        t.addfile(info, io.BytesIO(inside) if inside else None)
`;

/**
 * Makes an archive of the kind its name ends with, member by member: [name, kind, data, mode]. kind: file
 * (data is its text), copy (data is the path of a file to take), dir, link, hard (data: to what), fifo, char.
 */
export function archive(file, members) {
  const full = members.map(([name, kind = 'file', data = 'x', mode = 0o644]) => [name, kind, data, mode]);
  execFileSync('python3', ['-c', script, file, JSON.stringify(full)]);
  return file;
}
