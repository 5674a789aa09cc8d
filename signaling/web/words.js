/** Room names that can be read out over the phone. */

const FIRST = ('amber autumn birch bright brisk calm cedar clear coral crisp dawn deep early ember fern flint gentle ginger '
  + 'golden hazel ivory jade juniper keen late lemon light lilac linen lucky lunar maple mellow merry mild misty mossy '
  + 'noble north ocean olive opal pearl pine plain quick quiet rapid river rosy ruby rustic sage sandy silver snowy soft '
  + 'solar spring still sunny swift tidal velvet').split(' ');
const SECOND = ('badger beaver bison cobra crane curlew dingo dove eagle egret falcon ferret finch fox gecko gibbon goose '
  + 'grouse heron hornet ibis jackal jay kestrel kiwi koala lark lemur linnet lizard lynx magpie marten mole moose newt '
  + 'ocelot orca osprey otter owl panda pelican petrel pigeon plover puffin puma quail rabbit raven robin salmon seal shrew '
  + 'skylark sparrow stoat stork swan swift tapir tern wren').split(' ');

/** Two words and four digits: one of some forty million, so not to be met by chance. */
export function suggestRoom() {
  const [a, b, n] = crypto.getRandomValues(new Uint32Array(3));
  return `${FIRST[a % FIRST.length]}-${SECOND[b % SECOND.length]}-${String(n % 10_000).padStart(4, '0')}`;
}

/** What is typed, as a name that a path can carry without escapes. */
export function tidyRoom(text) {
  return text.trim().toLowerCase().replace(/[^\p{L}\p{N}._~-]+/gu, '-').replace(/^[-.]+|-+$/g, '').slice(0, 64);
}
