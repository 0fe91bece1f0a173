package dev.cometmq.interop;

import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.SortedMap;
import java.util.TreeMap;
import org.apache.rocketmq.common.message.MessageClientExt;
import org.apache.rocketmq.common.message.MessageExt;

/** All that a pull tells of one message; equal for two brokers when both serve the same record at the same place. */
record StoredMessage(String topic, int queueId, long queueOffset, long logOffset, int size, long storeTime, String storeHost,
    long bornTime, String bornHost, int flag, int sysFlag, int reconsumeTimes, long preparedTransactionOffset, int bodyCrc,
    String uniqueId, String offsetId, SortedMap<String, String> properties, String bodyDigest) {

    static StoredMessage of(MessageExt message) {
        SortedMap<String, String> properties = new TreeMap<>(message.getProperties());
        // The client adds these two from the head of the reply: they tell of the queue, not of the message.
        properties.remove("MIN_OFFSET");
        properties.remove("MAX_OFFSET");
        return new StoredMessage(message.getTopic(), message.getQueueId(), message.getQueueOffset(), message.getCommitLogOffset(),
            message.getStoreSize(), message.getStoreTimestamp(), message.getStoreHost().toString(), message.getBornTimestamp(),
            message.getBornHost().toString(), message.getFlag(), message.getSysFlag(), message.getReconsumeTimes(),
            message.getPreparedTransactionOffset(), message.getBodyCRC(), message.getMsgId(),
            ((MessageClientExt) message).getOffsetMsgId(), properties, digest(message.getBody()));
    }

    /** Where it is found again. */
    String place() {
        return topic + " " + queueId + " " + queueOffset;
    }

    static String digest(byte[] body) {
        try {
            return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(body));
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }
}
