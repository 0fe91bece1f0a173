//! Keys that RocketMQ knows and CometMQ does nothing with, grouped by the reason.
//!
//! A key of this table found in a file is answered with one warning that gives the reason; it is never
//! swallowed. Who implements a key moves it from here to the role's table; a test keeps the two disjoint and,
//! together, complete.

/// Keys that have no effect for one common reason.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// Completes the sentence "KEY has no effect: …".
    pub(crate) reason: &'static str,
    keys: &'static str,
}

impl Group {
    /// The keys of the group, in RocketMQ's spelling.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.keys.split_whitespace()
    }
}

/// Why `key` has no effect, if it is one of `groups`.
pub(super) fn reason(groups: &[Group], key: &str) -> Option<&'static str> {
    groups.iter().find(|group| group.keys().any(|known| known == key)).map(|group| group.reason)
}

/// The keys of `broker.conf` without effect.
pub(super) const BROKER: &[Group] = &[
    THREADS_OF_SOCKETS,
    SOCKETS,
    BUFFERS_OF_SOCKETS,
    SHUTDOWN,
    TLS,
    PROXY,
    METRICS,
    UNUSED_ANYWHERE,
    REMOTE_CHANGES,
    Group {
        reason: "there are no thread pools: a request is served where it is read",
        keys: "sendMessageThreadPoolNums putMessageFutureThreadPoolNums pullMessageThreadPoolNums
            litePullMessageThreadPoolNums ackMessageThreadPoolNums processReplyMessageThreadPoolNums
            queryMessageThreadPoolNums adminBrokerThreadPoolNums clientManageThreadPoolNums
            consumerManageThreadPoolNums loadBalanceProcessorThreadPoolNums heartbeatThreadPoolNums
            recoverThreadPoolNums endTransactionThreadPoolNums
            sendThreadPoolQueueCapacity putThreadPoolQueueCapacity pullThreadPoolQueueCapacity
            litePullThreadPoolQueueCapacity ackThreadPoolQueueCapacity replyThreadPoolQueueCapacity
            queryThreadPoolQueueCapacity clientManagerThreadPoolQueueCapacity
            consumerManagerThreadPoolQueueCapacity heartbeatThreadPoolQueueCapacity
            endTransactionPoolQueueCapacity adminBrokerThreadPoolQueueCapacity
            loadBalanceThreadPoolQueueCapacity litePullMessageEnable asyncSendEnable
            maxAsyncPutMessageRequests batchDispatchRequestThreadPoolNums
            brokerFastFailureEnable waitTimeMillsInSendQueue waitTimeMillsInPullQueue
            waitTimeMillsInLitePullQueue waitTimeMillsInHeartbeatQueue waitTimeMillsInTransactionQueue
            waitTimeMillsInAckQueue waitTimeMillsInAdminBrokerQueue",
    },
    Group {
        reason: "there is no JVM heap and no pool of write buffers",
        keys:
            "transferMsgByHeap transientStorePoolEnable transientStorePoolSize fastFailIfNoBufferInStorePool
            commitIntervalCommitLog commitCommitLogLeastPages commitCommitLogThoroughInterval
            wakeCommitWhenPutMessage",
    },
    Group {
        reason: "files are not written through memory mappings",
        keys: "warmMapedFileEnable flushLeastPagesWhenWarmMapedFile mappedFileSwapEnable
            commitLogForceSwapMapInterval commitLogSwapMapInterval commitLogSwapMapReserveFileNum
            logicQueueForceSwapMapInterval logicQueueSwapMapInterval logicQueueSwapMapReserveFileNum
            cleanSwapedMapInterval writeWithoutMmap putConsumeQueueDataByFileChannel dataReadAheadEnable
            osPageCacheBusyTimeOutMills",
    },
    Group {
        reason: "appending to the log takes one short lock, of one kind",
        keys:
            "useReentrantLockWhenPutMessage useABSLock spinLockCollisionRetreatOptimalDegree topicQueueLockNum
            debugLockEnable putMessageTimeout",
    },
    Group {
        reason: "flushing is governed by flushDiskType, flushIntervalCommitLog and syncFlushTimeout alone",
        keys: "flushCommitLogTimed flushCommitLogLeastPages flushCommitLogThoroughInterval
            flushIntervalConsumeQueue flushConsumeQueueLeastPages flushConsumeQueueThoroughInterval
            wakeFlushWhenPutMessage enableRunningFlagsInFlush",
    },
    Group {
        reason: "retention knows the ages, hours and ratios of the commit log only",
        keys: "deleteConsumeQueueFilesInterval maxBatchDeleteFilesNum destroyMapedFileIntervalForcibly
            redeleteHangedFileInterval logicalDiskSpaceCleanForciblyThreshold replicasPerDiskPartition
            correctLogicMinOffsetSleepInterval correctLogicMinOffsetForceInterval enableCleanExpiredOffset",
    },
    Group {
        reason: "replication is not part of this version",
        keys: "brokerIP2 haListenPort haSendHeartbeatInterval haHousekeepingInterval haTransferBatchSize
            haMasterAddress haMaxGapNotInSync haSlaveFallbehindMax haFlowControlEnable
            maxHaTransferByteInSecond haMaxTimeSlaveNotCatchup slaveReadEnable slaveTimeout
            offsetCheckInSlave duplicationEnable diskFallRecorded totalReplicas inSyncReplicas
            minInSyncReplicas allAckInSyncStateSet enableAutoInSyncReplicas syncMasterFlushOffsetWhenStartup
            maxSlaveResendLength maxChecksumRange syncFromLastFile asyncLearner storePathEpochFile
            storePathBrokerIdentity lockInStrictMode enableSlaveActingMaster enableRemoteEscape skipPreOnline
            syncBrokerMemberGroupPeriod brokerHeartbeatInterval brokerNotActiveTimeoutMillis
            sendHeartbeatTimeoutMillis compatibleWithOldNameSrv",
    },
    Group {
        reason: "groups of brokers that elect their master are not part of this version",
        keys: "enableControllerMode controllerAddr fetchControllerAddrByDnsLookup syncBrokerMetadataPeriod
            checkSyncStateSetPeriod syncControllerMetadataPeriod controllerHeartBeatTimeoutMills
            brokerElectionPriority enableDLegerCommitLog storePathDLedgerCommitLog dLegerGroup dLegerPeers
            dLegerSelfId preferredLeaderId enableBatchPush",
    },
    Group {
        reason: "name servers are taken from namesrvAddr, read once at start",
        keys: "fetchNameSrvAddrByDnsLookup fetchNamesrvAddrByAddressServer fetchNamesrvAddrInterval
            updateNameServerAddrPeriod rmqAddressServerDomain rmqAddressServerSubGroup",
    },
    Group {
        reason: "registration at a name server has one form, set only by registerNameServerPeriod and \
            registerBrokerTimeoutMills",
        keys: "compressedRegister forceRegister enableSingleTopicRegister enableSplitRegistration
            splitRegistrationSize disappearTimeAfterStart",
    },
    Group {
        reason: "timer messages are not part of this version",
        keys:
            "timerWheelEnable mappedFileSizeTimerLog timerPrecisionMs timerRollWindowSlot timerFlushIntervalMs
            timerGetMessageThreadNum timerPutMessageThreadNum timerEnableDisruptor timerEnableCheckMetrics
            timerInterceptDelayLevel timerMaxDelaySec timerStopEnqueue timerCheckMetricsWhen
            timerSkipUnknownError timerWarmEnable timerStopDequeue timerEnableRetryUntilSuccess
            timerCongestNumEachSlot timerMetricSmallThreshold timerProgressLogIntervalMs recallMessageEnable
            allowRecallWhenBrokerNotWriteable",
    },
    Group {
        reason: "delay levels cannot be set in this version",
        keys: "messageDelayLevel flushDelayOffsetInterval delayOffsetUpdateVersionStep
            enableScheduleMessageStats enableScheduleAsyncDeliver scheduleAsyncDeliverMaxPendingLimit
            scheduleAsyncDeliverMaxResendNum2Blocked",
    },
    Group {
        reason: "transactions are not part of this version: half messages are always turned away",
        keys: "rejectTransactionMessage transactionTimeOut transactionCheckMax transactionCheckInterval
            transactionMetricFlushInterval transactionOpMsgMaxSize transactionOpBatchInterval",
    },
    Group {
        reason: "POP consumption has no settings in this version",
        keys: "popPollingSize popPollingMapSize maxPopPollingSize reviveQueueNum reviveInterval reviveMaxSlow
            reviveScanTime reviveAckWaitMs enableSkipLongAwaitingAck enablePopLog enablePopBufferMerge
            popCkStayBufferTime popCkStayBufferTimeOut popCkMaxBufferSize popCkOffsetMaxQueueSize
            enablePopBatchAck popLongPollingForceNotifyInterval enableNotifyBeforePopCalculateLag
            enableNotifyAfterPopOrderLockRelease initPopOffsetByCheckMsgInMem
            retrieveMessageFromPopRetryTopicV1 enableRetryTopicV2 popFromRetryProbability
            popConsumerFSServiceInit popConsumerKVServiceLog popConsumerKVServiceInit
            popConsumerKVServiceEnable popReviveMaxReturnSizePerRead popReviveMaxAttemptTimes
            popResponseReturnActualRetryTopic popInflightMessageThreshold enablePopMessageThreshold
            skipWhenCKRePutReachMaxTimes appendAckAsync appendCkAsync clearRetryTopicWhenDeleteTopic",
    },
    Group {
        reason: "assignment of queues by the broker has no settings in this version",
        keys: "serverLoadBalancerEnable loadBalancePollNameServerInterval defaultMessageRequestMode
            defaultPopShareQueueNum",
    },
    Group {
        reason: "SQL92 filters are not part of this version",
        keys:
            "enablePropertyFilter enableCalcFilterBitMap expectConsumerNumUseFilter maxErrorRateOfBloomFilter
            filterDataCleanTimeSpan filterSupportRetry maxFilterMessageSize enableConsumeQueueExt
            mappedFileSizeConsumeQueueExt bitMapLengthConsumeQueueExt",
    },
    Group {
        reason: "access control is not part of this version: every client is let in",
        keys: "aclEnable authConfigPath authenticationEnabled authenticationProvider
            authenticationMetadataProvider authenticationStrategy authenticationWhitelist
            initAuthenticationUser innerClientAuthenticationCredentials authorizationEnabled
            authorizationProvider authorizationMetadataProvider authorizationStrategy
            authorizationWhitelist migrateAuthFromV1Enabled userCacheMaxNum userCacheExpiredSecond
            userCacheRefreshSecond aclCacheMaxNum aclCacheExpiredSecond aclCacheRefreshSecond
            statefulAuthenticationCacheMaxNum statefulAuthenticationCacheExpiredSecond
            statefulAuthorizationCacheMaxNum statefulAuthorizationCacheExpiredSecond",
    },
    Group {
        reason: "tiered storage is not part of this version, and plug-in classes cannot be loaded",
        keys:
            "messageStorePlugIn tieredStorageLevel tieredMetadataServiceProvider tieredBackendServiceProvider
            tieredStoreFilePath tieredStoreFileReservedTime tieredStoreCommitLogMaxSize
            tieredStoreConsumeQueueMaxSize tieredStoreIndexFileMaxHashSlotNum
            tieredStoreIndexFileMaxIndexNum tieredStoreGroupCommit tieredStoreGroupCommitTimeout
            tieredStoreGroupCommitCount tieredStoreGroupCommitSize tieredStoreMaxGroupCommitCount
            tieredStoreDeleteFileEnable tieredStoreDeleteFileInterval commitLogRollingInterval
            commitLogRollingMinimumSize readAheadCacheEnable readAheadMessageCountThreshold
            readAheadMessageSizeThreshold readAheadCacheExpireDuration readAheadCacheSizeThresholdRate
            tieredStoreMaxPendingLimit tieredStoreCrcCheckEnable objectStoreEndpoint objectStoreBucket
            objectStoreAccessKey objectStoreSecretKey",
    },
    Group {
        reason: "nothing is kept in RocksDB",
        keys: "storeType maxRecoveryCommitlogFiles cleanRocksDBDirtyCQIntervalMin statRocksDBCQIntervalSec
            memTableFlushIntervalMs realTimePersistRocksDBConfig enableRocksDBLog rocksdbCQDoubleWriteEnable
            bottomMostCompressionTypeForConsumeQueueStore rocksdbCompressionType rocksdbFlushWalFrequency
            rocksdbWalFileRollingThreshold configManagerVersion combineCQLoadingCQTypes
            combineCQPreferCQType combineAssignOffsetCQType combineCQEnableCheckSelf
            combineCQMaxExtraSearchCommitLogFiles",
    },
    Group {
        reason: "compacted topics, batch queues and light queues are not part of this version",
        keys:
            "enableCompaction compactionMappedFileSize compactionCqMappedFileSize compactionScheduleInternal
            compactionThreadNum maxOffsetMapSize mapperFileSizeBatchConsumeQueue
            travelCqFileNumWhenGetMessage searchBcqByCacheEnable pullBatchMaxMessageCount enableLmq
            enableMultiDispatch maxLmqConsumeQueueNum enableLmqStats",
    },
    Group { reason: "the index is made whole after any crash, whatever it says", keys: "messageIndexSafe" },
    Group {
        reason: "the bounds of one read are fixed in this version",
        keys: "maxTransferBytesOnMessageInMemory maxTransferCountOnMessageInMemory
            maxTransferBytesOnMessageInDisk maxTransferCountOnMessageInDisk accessMessageInMemoryMaxRatio
            accessMessageInMemoryHotRatio coldCtrStrategyEnable usePIDColdCtrStrategy cgColdReadThreshold
            globalColdReadThreshold coldDataFlowControlEnable coldDataScanEnable
            timerColdDataCheckIntervalMs sampleSteps",
    },
    Group {
        reason: "recovery and the building of queues have no settings in this version",
        keys: "recoverConcurrently checkCRCOnRecover recheckReputOffsetFromCq enableAcceleratedRecovery
            enableLogConsumeQueueRepeatedlyBuildWhenRecover enableBuildConsumeQueueConcurrently
            dispatchFromSenderThread readUnCommitted enabledAppendPropCRC forceVerifyPropCRC",
    },
    Group { reason: "the log lies in one directory", keys: "readOnlyCommitLogStorePaths" },
    Group {
        reason: "statistics and their logs have no settings in this version",
        keys: "commercialBaseCount commercialSizePerMsg accountStatsEnable accountStatsPrintZeroValues
            maxStatsIdleTimeInMinutes enableDetailStat autoDeleteUnusedStats estimateAccumulation
            maxConsumeQueueScan sampleCountThreshold isolateLogEnable printChannelGroups
            printChannelGroupsMinNum",
    },
    Group {
        reason: "this behaviour is fixed in this version",
        keys: "regionId traceOn msgTraceTopicName startAcceptSendRequestTimeStamp rejectPullConsumerEnable
            disableConsumeIfConsumerReadSlowly consumerFallbehindThreshold enableBroadcastOffsetStore
            broadcastOffsetExpireSecond broadcastOffsetExpireMaxSecond realTimeNotifyConsumerChange
            channelExpiredTimeout subscriptionExpiredTimeout enableFastChannelEventProcess
            enableRegisterProducer storeReplyMessageEnable useServerSideResetOffset
            consumerOffsetUpdateVersionStep validateSystemTopicWhenUpdateTopic useStaticSubscription
            enableMixedMessageType enableCreateSysGroup autoMessageVersionOnTopicLen forwardTimeout
            cleanOfflineBrokerInterval",
    },
    Group {
        reason: "the program needs no installation directory, and knows its own file and place",
        keys: "rocketmqHome brokerConfigPath isBrokerContainer inBrokerContainer configName clusterName",
    },
    Group {
        reason: "RocketMQ 5 does nothing with it either",
        keys:
            "highSpeedMode flushConsumerOffsetHistoryInterval enableNetWorkFlowControl putMsgIndexHightWater
            dispatchCqThreads dispatchCqCacheNum enableAsyncReput maxTopicLength filterServerNums
            checkTransactionMessageEnable",
    },
    Group {
        // Many published example files set these; no release of RocketMQ reads them.
        reason: "RocketMQ does not read it either: the place follows from storePathRootDir",
        keys: "storePathConsumeQueue storePathIndex storeCheckpoint abortFile",
    },
];

/// The keys of `namesrv.conf` without effect.
pub(super) const NAMESRV: &[Group] = &[
    THREADS_OF_SOCKETS,
    SOCKETS,
    BUFFERS_OF_SOCKETS,
    SHUTDOWN,
    TLS,
    PROXY,
    METRICS,
    UNUSED_ANYWHERE,
    REMOTE_CHANGES,
    Group {
        reason: "there are no thread pools: a request is served where it is read",
        keys: "clientRequestThreadPoolNums defaultThreadPoolNums clientRequestThreadPoolQueueCapacity
            defaultThreadPoolQueueCapacity unRegisterBrokerQueueCapacity controllerThreadPoolNums
            controllerRequestThreadPoolQueueCapacity",
    },
    Group {
        reason: "groups of brokers that elect their master are not part of this version",
        keys: "enableControllerInNamesrv controllerType controllerDLegerGroup controllerDLegerPeers
            controllerDLegerSelfId mappedFileSize controllerStorePath electMasterMaxRetryCount
            enableElectUncleanMaster processReadEvent notifyBrokerRoleChanged scanInactiveMasterInterval
            jraftConfig jRaftElectionTimeoutMs jRaftScanWaitTimeoutMs jRaftSnapshotIntervalSecs
            jRaftGroupId jRaftServerId jRaftInitConf jRaftControllerRPCAddr",
    },
    Group {
        reason: "slaves that act for their master are not part of this version",
        keys: "supportActingMaster notifyMinBrokerIdChanged",
    },
    Group {
        reason: "the name server answers from its first moment on",
        keys: "needWaitForService waitSecondsForService",
    },
    Group {
        reason: "unknown topics are not looked up in another environment",
        keys: "clusterTest productEnvName",
    },
    Group {
        reason: "the program needs no installation directory, and does not rewrite its own file",
        keys: "rocketmqHome configStorePath",
    },
];

const THREADS_OF_SOCKETS: Group = Group {
    reason: "a thread for each core carries its part of the connections, with a runtime of its own",
    keys:
        "serverWorkerThreads serverCallbackExecutorThreads serverSelectorThreads serverNettyWorkerGroupEnable
        useEpollNativeSelector clientWorkerThreads clientCallbackExecutorThreads disableCallbackExecutor
        disableNettyWorkerGroup",
};

const SOCKETS: Group = Group {
    reason: "connections have no such limit or time-out to set in this version",
    keys:
        "serverOnewaySemaphoreValue serverAsyncSemaphoreValue serverSocketBacklog clientOnewaySemaphoreValue
        clientAsyncSemaphoreValue connectTimeoutMillis scanAvailableNameSrv clientChannelMaxIdleTimeSeconds
        clientCloseSocketIfTimeout maxReconnectIntervalTimeSeconds enableReconnectForGoAway",
};

const BUFFERS_OF_SOCKETS: Group = Group {
    reason: "the buffers of a connection are not configurable",
    keys: "serverSocketSndBufSize serverSocketRcvBufSize clientSocketSndBufSize clientSocketRcvBufSize
        writeBufferHighWaterMark writeBufferLowWaterMark serverPooledByteBufAllocatorEnable
        clientPooledByteBufAllocatorEnable",
};

const SHUTDOWN: Group = Group {
    reason: "shutting down has no settings in this version",
    keys: "enableShutdownGracefully shutdownWaitTimeSeconds",
};

const TLS: Group =
    Group { reason: "TLS is not part of this version: connections are not encrypted", keys: "useTLS" };

const PROXY: Group =
    Group { reason: "connections go out directly, not through a proxy", keys: "socksProxyConfig" };

const METRICS: Group = Group {
    reason: "metrics are not exported in this version",
    keys:
        "metricsExporterType metricsOtelCardinalityLimit metricsGrpcExporterTarget metricsGrpcExporterHeader
        metricGrpcExporterTimeOutInMills metricGrpcExporterIntervalInMills
        metricLoggingExporterIntervalInMills metricsPromExporterPort metricsPromExporterHost metricsLabel
        metricsInDelta",
};

const UNUSED_ANYWHERE: Group =
    Group { reason: "RocketMQ 5 does nothing with it either", keys: "channelNotActiveInterval" };

const REMOTE_CHANGES: Group =
    Group { reason: "which settings may be changed remotely is fixed", keys: "configBlackList" };
