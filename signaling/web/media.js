/** Camera and microphone; and a drawn picture for whoever has none, so that everyone can join. */

const WISH = {
  audio: { echoCancellation: true, noiseSuppression: true },
  video: { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } },
};

/**
 * Never fails: what cannot be had is replaced or left out, and `notice` says why and what to do.
 *
 * @param {() => string} name whose initial the drawn picture shows
 * @returns {Promise<{stream: MediaStream, drawn: boolean, hasAudio: boolean, notice?: string}>}
 */
export async function openMedia(name) {
  if (!navigator.mediaDevices?.getUserMedia) {
    return withDrawing([], name, 'The browser gives the camera only to pages on https or localhost. You can see and hear the others; they see a drawn picture of you.');
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia(WISH);
    return { stream, drawn: false, hasAudio: true };
  } catch (error) {
    return one(error, name);
  }
}

// Both at once failed; perhaps one of the two is there.
async function one(error, name) {
  if (error.name === 'NotAllowedError') {
    return withDrawing([], name, 'Camera and microphone are blocked for this page. Allow them at the left of the address bar, then reload. Until then the others see a drawn picture.');
  }
  const audio = await only({ audio: WISH.audio });
  const video = await only({ video: WISH.video });
  const busy = error.name === 'NotReadableError' ? ' Another program may be using it; close that and reload.' : '';
  if (video) {
    return { stream: new MediaStream([...video.getTracks(), ...(audio?.getTracks() ?? [])]), drawn: false, hasAudio: Boolean(audio), notice: audio ? undefined : `No microphone was found, so the others cannot hear you.${busy}` };
  }
  return withDrawing(audio?.getTracks() ?? [], name, audio
    ? `No camera was found, so the others see a drawn picture.${busy}`
    : `No camera or microphone was found. You can see and hear the others; they see a drawn picture of you.${busy}`);
}

async function only(wish) {
  try {
    return await navigator.mediaDevices.getUserMedia(wish);
  } catch {
    return undefined;
  }
}

function withDrawing(tracks, name, notice) {
  return {
    stream: new MediaStream([drawn(name), ...tracks]),
    drawn: true,
    hasAudio: tracks.some(({ kind }) => kind === 'audio'),
    notice,
  };
}

/** A video track that shows an initial and the time, gently moving. */
function drawn(name) {
  const canvas = document.createElement('canvas');
  canvas.width = 640;
  canvas.height = 360;
  const context = canvas.getContext('2d');
  const hue = crypto.getRandomValues(new Uint8Array(1))[0] * (360 / 256);
  const draw = () => {
    const now = Date.now() / 1000;
    const shade = context.createLinearGradient(0, 0, 640, 360);
    shade.addColorStop(0, `hsl(${hue} 45% 32%)`);
    shade.addColorStop(1, `hsl(${hue + 50} 50% 22%)`);
    context.fillStyle = shade;
    context.fillRect(0, 0, 640, 360);
    for (let ring = 0; ring < 3; ring += 1) {
      const phase = (now / 4 + ring / 3) % 1;
      context.beginPath();
      context.arc(320, 165, 70 + phase * 120, 0, 2 * Math.PI);
      context.strokeStyle = `rgb(255 255 255 / ${0.25 * (1 - phase)})`;
      context.lineWidth = 3;
      context.stroke();
    }
    context.fillStyle = 'rgb(255 255 255 / 0.16)';
    context.beginPath();
    context.arc(320, 165, 70, 0, 2 * Math.PI);
    context.fill();
    context.fillStyle = '#fff';
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    context.font = '600 68px system-ui, sans-serif';
    context.fillText((name() || 'G').trim().charAt(0).toUpperCase(), 320, 170);
    context.font = '20px system-ui, sans-serif';
    context.fillStyle = 'rgb(255 255 255 / 0.75)';
    context.fillText(new Date().toLocaleTimeString(), 320, 310);
  };
  draw();
  const timer = setInterval(draw, 66);
  const [track] = canvas.captureStream(15).getVideoTracks();
  const stop = track.stop.bind(track);
  track.stop = () => {
    clearInterval(timer);
    stop();
  };
  return track;
}
