package dev.cometmq.interop;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.parallel.Execution;
import org.junit.jupiter.api.parallel.ExecutionMode;

/**
 * One directory with one broker.conf passes between a Java broker and the server under test: each serves all that the others
 * stored, equal to the last byte that a client sees, lets a group go on where it stood, and adds.
 */
@Execution(ExecutionMode.CONCURRENT)
class JavaDirectoryTest {
    private final Software java = new JavaServer(System.getProperty("interop.java.version"));
    private final Software ours = Software.underTest();

    /** Java always stops in order; ours is killed first, so that Java opens what an orderly stop left. */
    @Test
    void passesOnWhenJavaIsStopped() throws Exception {
        try (DirectoryJourney journey = new DirectoryJourney(ours)) {
            journey.stay(java, DirectoryJourney.End.STOPPED);
            journey.stay(ours, DirectoryJourney.End.KILLED);
            journey.stay(ours, DirectoryJourney.End.STOPPED);
            journey.stay(java, DirectoryJourney.End.STOPPED);
            journey.stay(ours, DirectoryJourney.End.STOPPED);
        }
    }

    /** Java is always killed; ours is stopped first, so that Java opens what a kill left. */
    @Test
    void passesOnWhenJavaIsKilled() throws Exception {
        try (DirectoryJourney journey = new DirectoryJourney(ours)) {
            journey.stay(java, DirectoryJourney.End.KILLED);
            journey.stay(ours, DirectoryJourney.End.STOPPED);
            journey.stay(ours, DirectoryJourney.End.KILLED);
            journey.stay(java, DirectoryJourney.End.KILLED);
            journey.stay(ours, DirectoryJourney.End.KILLED);
        }
    }
}
