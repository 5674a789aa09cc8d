// The npm package of the browser client: packed, loaded, and held against its types: FOLDER SCRATCH
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, scratch] = process.argv.slice(2);
const ts = createRequire(`${process.env.NODE_PATH}/`)('typescript');

// as `npm publish` would send it
const [{ filename, files }] = JSON.parse(execFileSync('npm', ['pack', '--json', '--pack-destination', scratch], { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
const home = join(scratch, 'node_modules/@rtc-operator/client');
mkdirSync(home, { recursive: true });
execFileSync('tar', ['-xzf', join(scratch, filename), '-C', home, '--strip-components', '1']);
const paths = files.map(({ path }) => path);
for (const page of ['app.js', 'index.html', 'style.css', 'test/session.test.js']) assert.ok(!paths.includes(page), `${page} is of the page alone`);
for (const file of ['README.md', 'client.d.ts']) assert.ok(paths.includes(file), `${file} is left out`);

// it has all that it imports
const client = await import(pathToFileURL(createRequire(join(scratch, 'x')).resolve('@rtc-operator/client')));

// TypeScript takes an application that uses all of it, and refuses what it should
const uses = join(scratch, 'uses.ts');
cpSync(new URL('uses.ts', import.meta.url), uses);
const program = ts.createProgram([uses], {
  strict: true, noEmit: true, module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext,
  target: ts.ScriptTarget.ES2022, lib: ['lib.es2022.d.ts', 'lib.dom.d.ts'], types: [], noUnusedLocals: true,
});
const complaints = ts.getPreEmitDiagnostics(program).map((one) => `${one.file?.fileName}:${one.start}: ${ts.flattenDiagnosticMessageText(one.messageText, '\n')}`);
assert.deepEqual(complaints, []);

// what the types promise is there, and the other way round
const checker = program.getTypeChecker();
const source = program.getSourceFile(join(home, 'client.d.ts'));
const declared = checker.getExportsOfModule(checker.getSymbolAtLocation(source));
const named = (symbols) => symbols.map(({ name }) => name).sort();
const values = declared.filter(({ flags }) => flags & ts.SymbolFlags.Value);
// a class that only comes out of `join` is exported for its type
assert.deepEqual(named(values), Object.keys(client).sort());
const call = declared.find(({ name }) => name === 'Call');
const members = named(checker.getPropertiesOfType(checker.getDeclaredTypeOfSymbol(call)));
assert.deepEqual(members, Object.getOwnPropertyNames(client.Call.prototype).filter((name) => name !== 'constructor').sort());

// and so are the events
const code = (file) => readFileSync(join(home, file), 'utf8');
const told = new Set();
const quoted = (text) => [...text.matchAll(/'([\w-]+)'/g)].map(([, word]) => word);
const emitted = (file, call) => [...code(file).matchAll(call)].forEach(([, first]) => quoted(first).forEach((event) => told.add(event)));
emitted('client.js', /#emit\(([^,]+),/g);
emitted('session.js', /#event\(([^,]+),/g);
emitted('room.js', /\bevent\(([^,]+),/g);
for (const [, words] of code('client.js').matchAll(/forward\(('[^)]+)\)/g)) told.add(quoted(words).at(-1));
told.delete('signal'); // goes to a peer
const events = declared.find(({ name }) => name === 'CallEvents');
assert.deepEqual(named(checker.getPropertiesOfType(checker.getDeclaredTypeOfSymbol(events))), [...told].sort());
