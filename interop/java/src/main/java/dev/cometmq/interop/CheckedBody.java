package dev.cometmq.interop;

import java.nio.ByteBuffer;
import java.util.concurrent.ThreadLocalRandom;
import java.util.zip.CRC32;

/** Message bodies that carry their own checksum: eight bytes of CRC-32, then random bytes. */
final class CheckedBody {
    private CheckedBody() {
    }

    static byte[] random(int size) {
        byte[] body = new byte[Math.max(size, Long.BYTES + 1)];
        ThreadLocalRandom.current().nextBytes(body);
        ByteBuffer.wrap(body).putLong(checksum(body));
        return body;
    }

    static boolean intact(byte[] body) {
        return body.length > Long.BYTES && ByteBuffer.wrap(body).getLong() == checksum(body);
    }

    private static long checksum(byte[] body) {
        CRC32 crc = new CRC32();
        crc.update(body, Long.BYTES, body.length - Long.BYTES);
        return crc.getValue();
    }
}
